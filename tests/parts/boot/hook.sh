#!/bin/sh
# What udhcpc and dhclient call when something happens to their lease: keeps the
# interface's address, and writes the event and all that they say of it to $EVENTS.
# udhcpc gives the event as the argument, dhclient as $reason. $IP is iproute2's ip.
event=${1:-$reason}
case $event in
    bound | renew | BOUND | RENEW | REBIND | REBOOT)
        "$IP" -4 address flush dev "$interface"
        "$IP" address add "${ip:-$new_ip_address}/${subnet:-$new_subnet_mask}" dev "$interface"
        ;;
    deconfig | EXPIRE | FAIL | RELEASE | STOP)
        "$IP" -4 address flush dev "$interface"
        ;;
esac
# At once: who reads takes no half of an event.
block=$(printf 'event=%s\n' "$event" && env)
printf '%s\n\n' "$block" >>"$EVENTS"

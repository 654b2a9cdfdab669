/*
 * The reference of `cargo bench --bench milter`: a libmilter filter that counts
 * the MAIL commands of each connection and does nothing else.
 *
 *   cc -O2 -o count_mail count_mail.c -lmilter -lpthread     (libmilter-dev)
 *   ./count_mail /path/of/socket [LIMIT SECONDS]
 *
 * With LIMIT, each MAIL beyond it is answered SECONDS later with a temporary
 * failure: libmilter's way to hold a connection is a thread that sleeps.
 */
#include <libmilter/mfapi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned long limit, seconds;

static sfsistat on_mail(SMFICTX *connection, char **arguments)
{
    uintptr_t mails = (uintptr_t)smfi_getpriv(connection) + 1;
    (void)arguments;
    smfi_setpriv(connection, (void *)mails);
    if (limit == 0 || mails <= limit)
        return SMFIS_CONTINUE;
    sleep(seconds);
    return SMFIS_TEMPFAIL;
}

int main(int count, char **argument)
{
    struct smfiDesc filter = {.xxfi_name = "count_mail", .xxfi_version = SMFI_VERSION, .xxfi_envfrom = on_mail};
    if (count != 2 && count != 4) {
        fprintf(stderr, "usage: %s SOCKET [LIMIT SECONDS]\n", argument[0]);
        return 2;
    }
    if (count == 4) {
        limit = strtoul(argument[2], NULL, 10);
        seconds = strtoul(argument[3], NULL, 10);
    }
    if (smfi_setconn(argument[1]) != MI_SUCCESS || smfi_setbacklog(1024) != MI_SUCCESS ||
        smfi_register(filter) != MI_SUCCESS)
        return 1;
    return smfi_main() == MI_SUCCESS ? 0 : 1;
}

/*
 * The reference of `cargo bench --bench milter`: a libmilter filter that counts
 * the MAIL commands of each connection and does nothing else.
 *
 *   cc -O2 -o count_mail count_mail.c -lmilter -lpthread     (libmilter-dev)
 *   ./count_mail /path/of/socket
 */
#include <libmilter/mfapi.h>
#include <stdint.h>
#include <stdio.h>

static sfsistat on_mail(SMFICTX *connection, char **arguments)
{
    uintptr_t mails = (uintptr_t)smfi_getpriv(connection) + 1;
    (void)arguments;
    smfi_setpriv(connection, (void *)mails);
    return SMFIS_CONTINUE;
}

int main(int count, char **argument)
{
    struct smfiDesc filter = {.xxfi_name = "count_mail", .xxfi_version = SMFI_VERSION, .xxfi_envfrom = on_mail};
    if (count != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", argument[0]);
        return 2;
    }
    if (smfi_setconn(argument[1]) != MI_SUCCESS || smfi_setbacklog(1024) != MI_SUCCESS ||
        smfi_register(filter) != MI_SUCCESS)
        return 1;
    return smfi_main() == MI_SUCCESS ? 0 : 1;
}

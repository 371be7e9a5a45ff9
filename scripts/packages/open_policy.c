/* open_policy FILE: opens a policy and prints the size of what is said of it. */
#include <actquant.h>

#include <stdio.h>
#include <string.h>

int main(int count, char** arguments) {
    aq_session* session = NULL;
    if (count != 2) {
        fprintf(stderr, "usage: open_policy FILE\n");
        return 2;
    }
    if (aq_open(arguments[1], 1, &session) != AQ_OK) {
        fprintf(stderr, "%s\n", aq_last_error());
        return 1;
    }
    printf("described in %zu bytes\n", strlen(aq_describe(session)));
    aq_close(session);
    return 0;
}

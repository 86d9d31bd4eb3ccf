/*
 * POP3 sessions, so many at a time: USER PASS STAT UIDL LIST, RETR of the first messages, QUIT.
 *
 * Each thread uses the account of its number. Replies are not looked into beyond what proves them whole: "+OK", the last
 * octets of a listing or message, and, when every message was fetched, that the octets are those that STAT named (the
 * messages of the bench have no line that begins with a dot).
 */

#include "load.h"

static const char *usage =
    "pop3_load [-s sessions at a time] [-m sessions in all] [-n accounts] [-u user%ld@domain] [-w password]\n"
    "          [-r messages to RETR, -r all] [-x (DELE what was fetched)]\n"
    "          [-l (login and QUIT only)] [-T (TLS)] ADDRESS:PORT";

static long sessions_at_once = 1, sessions = 1, accounts = 1, retrievals = 0, retrieve_all, delete, login_only, with_tls;
static const char *user_format = "user%ld@example.test", *password = "secret";
static double *latencies;
static atomic_long messages_done, octets_done;

static void expect_ok(struct connection *self, const char *what)
{
    size_t length;
    char *line = read_line(self, &length);
    if (length < 3 || memcmp(line, "+OK", 3) != 0)
        fail("%s: %.*s", what, (int)length, line);
}

/* Read a multi-line reply and return the octets of its content. As nothing is pipelined, its end is the end of what comes. */
static long read_listing(struct connection *self, const char *what)
{
    size_t length;
    char *line = read_line(self, &length);
    if (length < 3 || memcmp(line, "+OK", 3) != 0)
        fail("%s: %.*s", what, (int)length, line);
    char tail[5] = "..\r\n"; /* what came last; the content may be empty */
    long octets = 0;
    tail[0] = '\r', tail[1] = '\n', tail[2] = tail[3] = tail[4] = 0;
    int kept = 2;
    for (;;) {
        size_t count = self->to - self->from;
        const char *octet = self->buffer + self->from;
        octets += count;
        if (count >= 5) {
            memcpy(tail, octet + count - 5, 5), kept = 5;
        } else {
            for (size_t each = 0; each < count; each++) {
                if (kept == 5)
                    memmove(tail, tail + 1, 4), kept = 4;
                tail[kept++] = octet[each];
            }
        }
        self->from = self->to;
        if (kept == 5 && memcmp(tail, "\r\n.\r\n", 5) == 0)
            return octets - 3;
        fill(self);
    }
}

static void session(struct connection *self, long account)
{
    char user[300];
    snprintf(user, sizeof user, user_format, account);
    open_connection(self, with_tls);
    expect_ok(self, "greeting");
    command(self, "USER %s", user);
    expect_ok(self, "USER");
    command(self, "PASS %s", password);
    expect_ok(self, "PASS");
    if (!login_only) {
        long count, total, got = 0;
        size_t length;
        command(self, "STAT");
        char *line = read_line(self, &length);
        if (sscanf(line, "+OK %ld %ld", &count, &total) != 2)
            fail("STAT: %.*s", (int)length, line);
        command(self, "UIDL");
        read_listing(self, "UIDL");
        command(self, "LIST");
        read_listing(self, "LIST");
        long wanted = retrieve_all ? count : retrievals;
        if (wanted > count)
            fail("%s has %ld messages", user, count);
        for (long number = 1; number <= wanted; number++) {
            command(self, "RETR %ld", number);
            got += read_listing(self, "RETR");
        }
        for (long number = 1; delete && number <= wanted; number++) {
            command(self, "DELE %ld", number);
            expect_ok(self, "DELE");
        }
        if (wanted == count && wanted > 0 && got != total)
            fail("STAT said %ld octets, and %ld came", total, got);
        atomic_fetch_add(&messages_done, wanted);
        atomic_fetch_add(&octets_done, got);
    }
    command(self, "QUIT");
    expect_ok(self, "QUIT");
    close_connection(self);
}

static void *work(void *argument)
{
    long thread = (long)argument;
    struct connection *self = malloc(sizeof *self);
    for (long number; (number = atomic_fetch_add(&next_number, 1)) < sessions;) {
        double start = now_seconds();
        session(self, thread % accounts);
        latencies[number] = now_seconds() - start;
    }
    free(self);
    return NULL;
}

int main(int count, char **words)
{
    int letter;
    program = "pop3_load";
    signal(SIGPIPE, SIG_IGN);
    while ((letter = getopt(count, words, "s:m:n:u:w:r:xlT")) != -1)
        switch (letter) {
        case 's': sessions_at_once = number_of(optarg); break;
        case 'm': sessions = number_of(optarg); break;
        case 'n': accounts = number_of(optarg); break;
        case 'u': user_format = optarg; break;
        case 'w': password = optarg; break;
        case 'r':
            if (strcmp(optarg, "all") == 0)
                retrieve_all = 1;
            else
                retrievals = number_of(optarg);
            break;
        case 'x': delete = 1; break;
        case 'l': login_only = 1; break;
        case 'T': with_tls = 1; break;
        default: fail("usage: %s", usage);
        }
    if (optind != count - 1 || accounts < 1 || sessions_at_once < 1)
        fail("usage: %s", usage);
    set_server(words[optind]);
    if (with_tls)
        prepare_tls();
    latencies = calloc(sessions + 1, sizeof *latencies);
    double start = now_seconds();
    run_threads(sessions_at_once, work);
    double seconds = now_seconds() - start;
    printf("{\"seconds\": %.6f, \"sessions\": %ld, \"messages\": %ld, \"octets\": %ld, ", seconds, sessions,
           atomic_load(&messages_done), atomic_load(&octets_done));
    print_latencies(latencies, sessions);
    printf("\"client_cpu_seconds\": %.3f}\n", own_cpu_seconds());
    return 0;
}

/*
 * SMTP messages from prepared buffers: a connection per message or kept ones, in clear or with STARTTLS and AUTH PLAIN.
 *
 * Each message has its number in its header section, and else they are all the same, so that what arrives can be checked
 * octet by octet: `-p FILE` writes message number 0 into a file. Recipients are taken from the accounts in turn: message n
 * with r recipients goes to the accounts n * r, n * r + 1 ... modulo their number.
 */

#include "load.h"

static const char *usage =
    "smtp_load [-s sessions at a time] [-m messages] [-l octets of one] [-d (keep connections)] [-r recipients of one]\n"
    "          [-n accounts] [-t user%ld@domain] [-f sender] [-P (pipeline)] [-S (STARTTLS)] [-T (TLS)]\n"
    "          [-u user%ld@domain -w password (AUTH PLAIN)] [-p file (print message 0)] ADDRESS:PORT";

static long sessions_at_once = 1, messages = 1, octets = 4096, keep, recipients = 1, accounts = 1, pipelined, with_starttls, with_tls;
static const char *to_format = "user%ld@example.test", *from = "sender@elsewhere.test", *user_format, *password = "secret";
static char *body;
static size_t body_octets;
static double *latencies;

static const char head_format[] =
    "From: <%s>\r\nTo: undisclosed-recipients:;\r\nSubject: load\r\n"
    "Date: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%010ld@load.test>\r\n\r\n";

/* As long for every number: each has ten digits. */
static size_t format_head(char *buffer, long number)
{
    int count = snprintf(buffer, 500, head_format, from, number);
    if (count < 0 || count >= 500)
        fail("-f: the header section is %d octets", count);
    return count;
}

/* Lines of 76 octets and CRLF, the last as long as is left, then the line that ends the content. */
static void prepare_body(void)
{
    char head[500];
    size_t head_octets = format_head(head, 0);
    if (octets < (long)head_octets + 2)
        fail("-l: at least %zu", head_octets + 2);
    body_octets = octets - head_octets;
    body = malloc(body_octets + 3);
    for (size_t at = 0; at < body_octets; at++) {
        size_t column = at % 78;
        body[at] = column == 76 ? '\r' : column == 77 ? '\n' : 'a' + (at / 78 + column) % 26;
    }
    if (body_octets % 78 == 1) /* a lone CR behind a line end would be left over */
        body[body_octets - 3] = 'z';
    body[body_octets - 2] = '\r', body[body_octets - 1] = '\n';
    memcpy(body + body_octets, ".\r\n", 3);
}

static void expect(struct connection *self, int wanted, const char *what)
{
    size_t length;
    char *line;
    do
        line = read_line(self, &length);
    while (length > 3 && line[3] == '-');
    if (length < 4 || atoi(line) != wanted)
        fail("%s: %.*s", what, (int)length, line);
}

static size_t base64(char *to, const unsigned char *octet, size_t count)
{
    return EVP_EncodeBlock((unsigned char *)to, octet, (int)count);
}

static void greet(struct connection *self, long thread)
{
    open_connection(self, with_tls);
    expect(self, 220, "greeting");
    command(self, "EHLO client.test");
    expect(self, 250, "EHLO");
    if (with_starttls) {
        command(self, "STARTTLS");
        expect(self, 220, "STARTTLS");
        start_tls(self);
        command(self, "EHLO client.test");
        expect(self, 250, "EHLO");
    }
    if (user_format != NULL) {
        char plain[700], encoded[1000];
        int count = 1 + snprintf(plain + 1, 300, user_format, thread % accounts);
        plain[0] = 0;
        count += 1 + snprintf(plain + count + 1, 300, "%s", password);
        encoded[base64(encoded, (unsigned char *)plain, count)] = 0;
        command(self, "AUTH PLAIN %s", encoded);
        expect(self, 235, "AUTH");
    }
}

static void transaction(struct connection *self, long number, char *commands, size_t room)
{
    char head[500], recipient[300];
    if (pipelined) {
        size_t count = snprintf(commands, room, "MAIL FROM:<%s>\r\n", from);
        for (long each = 0; each < recipients; each++) {
            snprintf(recipient, sizeof recipient, to_format, (number * recipients + each) % accounts);
            count += snprintf(commands + count, room - count, "RCPT TO:<%s>\r\n", recipient);
        }
        count += snprintf(commands + count, room - count, "DATA\r\n");
        put(self, commands, count);
    } else {
        command(self, "MAIL FROM:<%s>", from);
    }
    expect(self, 250, "MAIL");
    for (long each = 0; each < recipients; each++) {
        if (!pipelined) {
            snprintf(recipient, sizeof recipient, to_format, (number * recipients + each) % accounts);
            command(self, "RCPT TO:<%s>", recipient);
        }
        expect(self, 250, "RCPT");
    }
    if (!pipelined)
        command(self, "DATA");
    expect(self, 354, "DATA");
    put_both(self, head, format_head(head, number), body, body_octets + 3);
    expect(self, 250, "end of data");
}

static void *work(void *argument)
{
    long thread = (long)argument;
    int is_open = 0;
    size_t room = 1000 + recipients * 400;
    char *commands = malloc(room);
    struct connection *self = malloc(sizeof *self);
    for (long number; (number = atomic_fetch_add(&next_number, 1)) < messages;) {
        double start = now_seconds();
        if (!is_open)
            greet(self, thread), is_open = 1;
        transaction(self, number, commands, room);
        if (!keep) {
            command(self, "QUIT");
            expect(self, 221, "QUIT");
            close_connection(self), is_open = 0;
        }
        latencies[number] = now_seconds() - start;
    }
    if (is_open) {
        command(self, "QUIT");
        expect(self, 221, "QUIT");
        close_connection(self);
    }
    free(self);
    free(commands);
    return NULL;
}

static void print_message(const char *path)
{
    char head[500];
    size_t head_octets = format_head(head, 0);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(head, 1, head_octets, file) != head_octets ||
        fwrite(body, 1, body_octets, file) != body_octets || fclose(file) != 0)
        fail("%s: %s", path, strerror(errno));
}

int main(int count, char **words)
{
    int letter;
    const char *print_to = NULL;
    program = "smtp_load";
    signal(SIGPIPE, SIG_IGN);
    while ((letter = getopt(count, words, "s:m:l:dr:n:t:f:PSTu:w:p:")) != -1)
        switch (letter) {
        case 's': sessions_at_once = number_of(optarg); break;
        case 'm': messages = number_of(optarg); break;
        case 'l': octets = number_of(optarg); break;
        case 'd': keep = 1; break;
        case 'r': recipients = number_of(optarg); break;
        case 'n': accounts = number_of(optarg); break;
        case 't': to_format = optarg; break;
        case 'f': from = optarg; break;
        case 'P': pipelined = 1; break;
        case 'S': with_starttls = 1; break;
        case 'T': with_tls = 1; break;
        case 'u': user_format = optarg; break;
        case 'w': password = optarg; break;
        case 'p': print_to = optarg; break;
        default: fail("usage: %s", usage);
        }
    if (optind != count - 1 || accounts < 1 || sessions_at_once < 1 || recipients < 1)
        fail("usage: %s", usage);
    set_server(words[optind]);
    prepare_body();
    if (print_to != NULL)
        print_message(print_to);
    if (with_tls || with_starttls)
        prepare_tls();
    latencies = calloc(messages + 1, sizeof *latencies);
    double start = now_seconds();
    run_threads(sessions_at_once, work);
    double seconds = now_seconds() - start;
    printf("{\"seconds\": %.6f, \"messages\": %ld, \"octets\": %ld, ", seconds, messages, messages * octets);
    print_latencies(latencies, messages);
    printf("\"client_cpu_seconds\": %.3f}\n", own_cpu_seconds());
    return 0;
}

/*
 * An SMTP server that takes everything and keeps nothing but a count, in a file that others map into their memory.
 *
 * The file holds numbers of 8 octets: messages, octets, connections, the most at a time, then how often each message number (as
 * smtp_load writes it into Message-ID) has come; -m says how many there may be.
 */

#include "load.h"
#include <fcntl.h>
#include <sys/mman.h>

static const char *usage = "smtp_sink -c FILE [-m message numbers] ADDRESS:PORT";

enum { MESSAGES, OCTETS, CONNECTIONS, MOST_CONNECTIONS, NUMBERS };

static _Atomic uint64_t *counts;
static long numbers;
static atomic_long open_now;

static void count_message(const char *start, size_t length, size_t octets)
{
    static const char field[] = "Message-ID: <";
    const char *found = memmem(start, length, field, sizeof field - 1);
    if (found != NULL && found + sizeof field + 9 < start + length) {
        char digits[11] = {0};
        memcpy(digits, found + sizeof field - 1, 10);
        long number = atol(digits);
        if (number < numbers)
            atomic_fetch_add(&counts[NUMBERS + number], 1);
    }
    atomic_fetch_add(&counts[OCTETS], octets);
    atomic_fetch_add(&counts[MESSAGES], 1);
}

/* Read more; false when the client has gone. */
static int fill_or_end(struct connection *self)
{
    if (self->from == self->to)
        self->from = self->to = 0;
    if (self->to == BUFFER_OCTETS) {
        memmove(self->buffer, self->buffer + self->from, self->to - self->from);
        self->to -= self->from, self->from = 0;
    }
    if (self->to == BUFFER_OCTETS)
        return 0;
    ssize_t done = recv(self->handle, self->buffer + self->to, BUFFER_OCTETS - self->to, 0);
    if (done <= 0)
        return 0;
    self->to += done;
    return 1;
}

/* Read a content up to its end; false when the client has gone before. */
static int read_content(struct connection *self)
{
    char first[4096];
    size_t first_octets = 0, octets = 0;
    for (;;) {
        char *start = self->buffer + self->from;
        size_t count = self->to - self->from;
        char *end = memmem(start, count, "\r\n.\r\n", 5);
        size_t used = end != NULL ? (size_t)(end - start) + 2 : count > 4 ? count - 4 : 0;
        size_t copied = sizeof first - first_octets < used ? sizeof first - first_octets : used;
        memcpy(first + first_octets, start, copied);
        first_octets += copied, octets += used, self->from += used;
        if (end != NULL) {
            self->from += 3;
            count_message(first, first_octets, octets);
            return 1;
        }
        if (!fill_or_end(self))
            return 0;
    }
}

static size_t answer(char *replies, const char *line)
{
    const char *reply = "250 2.0.0 Ok\r\n";
    if (strncasecmp(line, "EHLO", 4) == 0)
        reply = "250-sink.test\r\n250-PIPELINING\r\n250-SIZE 100000000\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n";
    else if (strncasecmp(line, "DATA", 4) == 0)
        reply = "354 Go ahead\r\n";
    else if (strncasecmp(line, "QUIT", 4) == 0)
        reply = "221 2.0.0 Bye\r\n";
    strcpy(replies, reply);
    return strlen(reply);
}

static void serve(struct connection *self)
{
    char replies[BUFFER_OCTETS / 4];
    put(self, "220 sink.test ESMTP\r\n", 21);
    for (;;) {
        size_t waiting = 0;
        char *end;
        /* Every command that is there is answered before anything is sent. */
        while ((end = memchr(self->buffer + self->from, '\n', self->to - self->from)) != NULL && waiting < sizeof replies - 500) {
            char *line = self->buffer + self->from;
            int is_data = strncasecmp(line, "DATA", 4) == 0, is_quit = strncasecmp(line, "QUIT", 4) == 0;
            waiting += answer(replies + waiting, line);
            self->from = end + 1 - self->buffer;
            if (is_data) {
                put(self, replies, waiting);
                if (!read_content(self))
                    return;
                waiting = answer(replies, "");
            } else if (is_quit) {
                put(self, replies, waiting);
                return;
            }
        }
        put(self, replies, waiting);
        if (!fill_or_end(self))
            return;
    }
}

static void *connection_thread(void *argument)
{
    struct connection *self = argument;
    uint64_t open = atomic_fetch_add(&open_now, 1) + 1, most = atomic_load(&counts[MOST_CONNECTIONS]);
    while (open > most && !atomic_compare_exchange_weak(&counts[MOST_CONNECTIONS], &most, open))
        ;
    serve(self);
    close(self->handle);
    free(self);
    atomic_fetch_sub(&open_now, 1);
    return NULL;
}

int main(int count, char **words)
{
    int letter, on = 1;
    const char *file = NULL;
    program = "smtp_sink";
    signal(SIGPIPE, SIG_IGN);
    while ((letter = getopt(count, words, "c:m:")) != -1)
        switch (letter) {
        case 'c': file = optarg; break;
        case 'm': numbers = number_of(optarg); break;
        default: fail("usage: %s", usage);
        }
    if (optind != count - 1 || file == NULL)
        fail("usage: %s", usage);
    set_server(words[optind]);
    size_t size = (NUMBERS + numbers) * sizeof *counts;
    int handle = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (handle < 0 || ftruncate(handle, size) != 0)
        fail("%s: %s", file, strerror(errno));
    counts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
    if (counts == MAP_FAILED)
        fail("%s: %s", file, strerror(errno));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&server, sizeof server) != 0 || listen(listener, 1000) != 0)
        fail("cannot listen: %s", strerror(errno));
    for (;;) {
        struct connection *made = malloc(sizeof *made);
        made->handle = accept(listener, NULL, NULL);
        if (made->handle < 0)
            fail("accept: %s", strerror(errno));
        made->tls = NULL, made->from = made->to = 0;
        setsockopt(made->handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        atomic_fetch_add(&counts[CONNECTIONS], 1);
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, 1 << 20);
        if (pthread_create(&thread, &attributes, connection_thread, made) != 0)
            fail("no thread");
    }
}

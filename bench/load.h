/*
 * What the load programs share: connections in clear or with TLS, a buffered way to read replies, threads that take
 * numbers from one counter, and the line of JSON that each prints at its end.
 *
 * One blocking thread for each session: a command costs one write and one read, and nothing else.
 */

#ifndef LOAD_H
#define LOAD_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_OCTETS (256 * 1024)
#define TIMEOUT_SECONDS 120

static const char *program;
static struct sockaddr_in server;
static SSL_CTX *tls_context;

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Say what went wrong and end the program: a load that is not whole proves nothing. */
static void fail(const char *format, ...)
{
    char text[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s: %s\n", program, text);
    _exit(1);
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static long number_of(const char *text)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (*text == 0 || *end != 0 || number < 0)
        fail("not a number: %s", text);
    return number;
}

/* Read "HOST:PORT". */
static void set_server(const char *text)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host)
        fail("not ADDRESS:PORT: %s", text);
    memcpy(host, text, colon - text);
    host[colon - text] = 0;
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)number_of(colon + 1));
    if (inet_pton(AF_INET, host, &server.sin_addr) != 1)
        fail("not an IPv4 address: %s", host);
}

static void prepare_tls(void)
{
    tls_context = SSL_CTX_new(TLS_client_method());
    if (tls_context == NULL)
        fail("no TLS");
    /* Whole handshakes, each for itself: a resumed one would measure something else. */
    SSL_CTX_set_session_cache_mode(tls_context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(tls_context, SSL_VERIFY_NONE, NULL);
}

struct connection {
    int handle;
    SSL *tls;
    size_t from, to; /* what is read and not yet used */
    char buffer[BUFFER_OCTETS];
};

static void start_tls(struct connection *self)
{
    self->tls = SSL_new(tls_context);
    SSL_set_fd(self->tls, self->handle);
    if (SSL_connect(self->tls) != 1)
        fail("TLS handshake: %s", ERR_reason_error_string(ERR_get_error()) ?: strerror(errno));
}

static void open_connection(struct connection *self, int with_tls)
{
    int on = 1;
    struct timeval timeout = {.tv_sec = TIMEOUT_SECONDS};
    self->handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (self->handle < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(self->handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(self->handle, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(self->handle, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(self->handle, (struct sockaddr *)&server, sizeof server) != 0)
        fail("connect: %s", strerror(errno));
    self->tls = NULL;
    self->from = self->to = 0;
    if (with_tls)
        start_tls(self);
}

static void close_connection(struct connection *self)
{
    if (self->tls != NULL) {
        SSL_shutdown(self->tls);
        SSL_free(self->tls);
    }
    close(self->handle);
}

static void put(struct connection *self, const char *octets, size_t count)
{
    while (count > 0) {
        ssize_t done = self->tls != NULL ? SSL_write(self->tls, octets, count > 1 << 30 ? 1 << 30 : (int)count)
                                         : send(self->handle, octets, count, MSG_NOSIGNAL);
        if (done <= 0)
            fail("send: %s", strerror(errno));
        octets += done;
        count -= done;
    }
}

/* Send two pieces by one call where that is possible. */
static inline void put_both(struct connection *self, const char *one, size_t one_count, const char *two, size_t two_count)
{
    if (self->tls == NULL) {
        struct iovec pieces[2] = {{(void *)one, one_count}, {(void *)two, two_count}};
        ssize_t done = writev(self->handle, pieces, 2);
        if (done < 0)
            fail("send: %s", strerror(errno));
        size_t of_one = (size_t)done < one_count ? (size_t)done : one_count;
        one += of_one, one_count -= of_one;
        two += done - of_one, two_count -= done - of_one;
    }
    put(self, one, one_count);
    put(self, two, two_count);
}

static void command(struct connection *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void command(struct connection *self, const char *format, ...)
{
    char line[1000];
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(line, sizeof line - 2, format, arguments);
    va_end(arguments);
    if (count < 0 || (size_t)count >= sizeof line - 2)
        fail("a command is too long");
    line[count] = '\r', line[count + 1] = '\n';
    put(self, line, count + 2);
}

/* Read more behind what is there already; ends the program when the other side does. */
static void fill(struct connection *self)
{
    if (self->from == self->to)
        self->from = self->to = 0;
    if (self->to == BUFFER_OCTETS) {
        memmove(self->buffer, self->buffer + self->from, self->to - self->from);
        self->to -= self->from, self->from = 0;
        if (self->to == BUFFER_OCTETS)
            fail("a reply is too long");
    }
    ssize_t done = self->tls != NULL ? SSL_read(self->tls, self->buffer + self->to, BUFFER_OCTETS - self->to)
                                     : recv(self->handle, self->buffer + self->to, BUFFER_OCTETS - self->to, 0);
    if (done <= 0)
        fail(done == 0 ? "the server closed the connection" : "receive: %s", strerror(errno));
    self->to += done;
}

/* Read a line and return it with its length; it is valid until the next call. */
static char *read_line(struct connection *self, size_t *length)
{
    size_t looked = 0;
    for (;;) {
        char *end = memchr(self->buffer + self->from + looked, '\n', self->to - self->from - looked);
        if (end != NULL) {
            char *line = self->buffer + self->from;
            *length = end + 1 - line;
            self->from += *length;
            return line;
        }
        looked = self->to - self->from;
        fill(self);
        looked = looked <= self->to - self->from ? looked : 0;
    }
}

/* The threads: each takes the next number of what is to be done, until there is none. */

static atomic_long next_number;

static int by_size(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static void run_threads(long count, void *(*work)(void *))
{
    pthread_t *threads = calloc(count, sizeof *threads);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 20);
    for (long each = 0; each < count; each++)
        if (pthread_create(&threads[each], &attributes, work, (void *)each) != 0)
            fail("no thread");
    for (long each = 0; each < count; each++)
        pthread_join(threads[each], NULL);
    free(threads);
}

static double own_cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Print how long things took (each in seconds) as members of a JSON object; sorts them. */
static void print_latencies(double *seconds, long count)
{
    qsort(seconds, count, sizeof *seconds, by_size);
    printf("\"latency_p50_ms\": %.3f, \"latency_p99_ms\": %.3f, \"latency_most_ms\": %.3f, ",
           count ? seconds[count / 2] * 1e3 : 0, count ? seconds[(long)((count - 1) * 0.99)] * 1e3 : 0,
           count ? seconds[count - 1] * 1e3 : 0);
}

#endif

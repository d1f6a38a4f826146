// A streaming chat server that tells the truth about its own timing, to measure clients against.
//
//   server --itl-us 20000 --ttft-us 100000 [--sync] [--port 0] [--certificate PEM --key PEM]
//
// It listens on 127.0.0.1 only, prints {"port": N} when it does, and ends when its standard input
// does, so that it never outlives the process that started it. One thread, one epoll, one heap of
// due times, answers that are written before they are due: cheaper per chunk than any client. With a
// certificate it speaks TLS (see tls.h).
//
// It speaks the OpenAI chat API (POST /v1/chat/completions, GET /v1/models), always streams, and
// sends max_completion_tokens (or max_tokens) content events. The text of each is " T<ns>":
// CLOCK_MONOTONIC right before the send. The first is " R<ns> T<ns>", where R is the kernel's stamp
// of the request's arrival. The request may set its own pace with the fields x_itl_us, x_ttft_us
// and x_sync (all streams tick together, as the steps of an engine make them). An itl of 0 sends as
// fast as the client reads.
//
// GET /stats: {"chunks", "late_mean_us", "late_max_us", "cpu_s"}: how late chunks were sent against
// their due times since the last look, which tells whether the server itself was the limit.

#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tls.h"

enum {
    MAX_REQUEST = 1 << 20,
    READ_SIZE = 16384,
    MAX_CHUNK = 1024,   // no chunk that is written below is longer
    BATCH = 256,        // chunks sent, or sockets read, before the others have their turn
    NOT_QUEUED = -1,
};
static const uint64_t SECOND = 1000000000;

typedef struct {
    int fd;
    int heap_index;  // its place among the streams that have something due, or NOT_QUEUED
    uint64_t itl_ns;
    uint64_t received_ns;
    long tokens, sent;
    bool streaming, closing, blocked, dead;
    Tls *tls;  // NULL without TLS
    char chunk[MAX_CHUNK];  // an ordinary content event, but for its stamp
    size_t chunk_length, chunk_stamp;
    char *in;
    size_t in_length, in_size;
    char *out;  // what the socket did not take yet
    size_t out_start, out_length, out_size;
} Connection;

typedef struct {
    uint64_t due_ns;
    Connection *c;
} Due;

static int poller;
static Due *heap;
static int heap_length, heap_size;
static long default_itl_us = 20000, default_ttft_us = 100000, default_sync = 0;
static struct { uint64_t chunks, late_sum_ns, late_max_ns; } stats;

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void *grown(void *block, size_t size) {
    void *larger = realloc(block, size);
    if (!larger) { perror("server"); exit(1); }
    return larger;
}

// ---- the heap: the stream that is due first is at its top

static void place(int index, Due due) { heap[index] = due; due.c->heap_index = index; }

static void sift_up(int index) {
    Due due = heap[index];
    while (index > 0 && heap[(index - 1) / 2].due_ns > due.due_ns) {
        place(index, heap[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    place(index, due);
}

static void sift_down(int index) {
    Due due = heap[index];
    for (int child; (child = 2 * index + 1) < heap_length; index = child) {
        if (child + 1 < heap_length && heap[child + 1].due_ns < heap[child].due_ns) child++;
        if (heap[child].due_ns >= due.due_ns) break;
        place(index, heap[child]);
    }
    place(index, due);
}

static void queue(Connection *c, uint64_t due_ns) {
    if (heap_length == heap_size) {
        heap_size = heap_size ? 2 * heap_size : 1024;
        heap = grown(heap, (size_t)heap_size * sizeof *heap);
    }
    place(heap_length++, (Due){due_ns, c});
    sift_up(c->heap_index);
}

static void unqueue(Connection *c) {
    int index = c->heap_index;
    if (index == NOT_QUEUED) return;
    c->heap_index = NOT_QUEUED;
    Due last = heap[--heap_length];
    if (last.c == c) return;
    place(index, last);
    sift_up(index);
    sift_down(last.c->heap_index);
}

// ---- sending: at once, or from a buffer when the socket takes it again

static void watch(Connection *c, bool writable) {
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void put_raw(Connection *c, const char *bytes, size_t length) {
    if (c->dead || !length) return;
    if (c->out_length == c->out_start) {
        ssize_t taken = send(c->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken == (ssize_t)length) return;
        if (taken < 0 && errno != EAGAIN) { c->dead = true; return; }
        if (taken > 0) { bytes += taken; length -= (size_t)taken; }
        c->out_start = c->out_length = 0;
        c->blocked = true;
        watch(c, true);
    }
    if (c->out_length + length > c->out_size) {
        c->out_size = 2 * (c->out_length + length);
        c->out = grown(c->out, c->out_size);
    }
    memcpy(c->out + c->out_length, bytes, length);
    c->out_length += length;
}

// What TLS itself has to say, and what it has made of what was put.
static void put_encrypted(Connection *c) {
    const char *bytes;
    size_t length = tls_pending(c->tls, &bytes);
    put_raw(c, bytes, length);
    tls_taken(c->tls);
}

static void put(Connection *c, const char *bytes, size_t length) {
    if (!c->tls) { put_raw(c, bytes, length); return; }
    if (!tls_write(c->tls, bytes, length)) c->dead = true;
    put_encrypted(c);
}

static void put_answer(Connection *c, const char *status, const char *body) {
    char answer[1024];
    int length = snprintf(answer, sizeof answer,
        "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
        status, strlen(body), body);
    put(c, answer, (size_t)length);
}

// An event as one HTTP chunk, appended to `to`; returns its length.
static size_t chunk_event(char *to, const char *event, int length) {
    return (size_t)sprintf(to, "%x\r\n%s\r\n", (unsigned)length, event);
}

static size_t chunk_content(char *to, const Connection *c, const char *delta, const char *finish) {
    char event[MAX_CHUNK - 16];
    int length = snprintf(event, sizeof event,
        "data: {\"id\":\"chatcmpl-%016" PRIu64 "\",\"object\":\"chat.completion.chunk\","
        "\"created\":1700000000,\"model\":\"reference\",\"choices\":[{\"index\":0,"
        "\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
        c->received_ns, delta, finish);
    return chunk_event(to, event, length);
}

// Sixteen digits.
static void write_stamp(char *to, uint64_t ns) {
    for (int i = 15; i >= 0; i--, ns /= 10) to[i] = (char)('0' + ns % 10);
}

// The event that all tokens have but the first and the last.
static void prepare_chunk(Connection *c) {
    c->chunk_length = chunk_content(c->chunk, c, "\"content\":\" T0000000000000000\"", "null");
    c->chunk_stamp = (size_t)(strstr(c->chunk, " T0") + 2 - c->chunk);
}

static void put_token(Connection *c) {
    char out[MAX_CHUNK], delta[96], first[24] = "";
    if (c->sent++ && c->sent < c->tokens) {
        write_stamp(c->chunk + c->chunk_stamp, now_ns());
        put(c, c->chunk, c->chunk_length);
        return;
    }
    if (c->sent == 1) snprintf(first, sizeof first, " R%016" PRIu64, c->received_ns);
    snprintf(delta, sizeof delta, "\"content\":\"%s T%016" PRIu64 "\"", first, now_ns());
    put(c, out, chunk_content(out, c, delta, c->sent == c->tokens ? "\"length\"" : "null"));
}

static void put_end(Connection *c) {
    char event[256], out[2 * MAX_CHUNK];
    int length = snprintf(event, sizeof event,
        "data: {\"id\":\"chatcmpl-%016" PRIu64 "\",\"object\":\"chat.completion.chunk\","
        "\"choices\":[],\"usage\":{\"prompt_tokens\":16,\"total_tokens\":%ld,"
        "\"completion_tokens\":%ld}}\n\n", c->received_ns, c->tokens + 16, c->tokens);
    size_t used = chunk_event(out, event, length);
    used += chunk_event(out + used, "data: [DONE]\n\n", 14);
    memcpy(out + used, "0\r\n\r\n", 5);
    put(c, out, used + 5);
    c->streaming = false;
}

// The stream at the top of the heap is due: send its next token, and queue it for the one after.
static void send_due(Due *due, uint64_t now) {
    Connection *c = due->c;
    if (c->itl_ns) {
        uint64_t late = now - due->due_ns;
        stats.late_sum_ns += late;
        if (late > stats.late_max_ns) stats.late_max_ns = late;
    }
    if (c->sent == 0) {
        char out[MAX_CHUNK];
        put(c, out, chunk_content(out, c, "\"role\":\"assistant\",\"content\":\"\"", "null"));
    }
    put_token(c);
    stats.chunks++;
    if (c->dead || c->sent == c->tokens) {
        unqueue(c);
        if (!c->dead) put_end(c);
    } else if (c->itl_ns) {
        due->due_ns += c->itl_ns;
        sift_down(0);
    } else if (c->blocked) {
        unqueue(c);  // goes on when the socket takes bytes again
    } else {
        due->due_ns = now;
        sift_down(0);
    }
}

// ---- requests

// The whole number behind a key of the JSON body, or a default.
static long number(const char *body, const char *key, long otherwise) {
    const char *at = strstr(body, key);
    if (!at) return otherwise;
    at += strlen(key);
    while (*at == ' ' || *at == ':' || *at == '"') at++;
    return *at >= '0' && *at <= '9' ? atol(at) : otherwise;
}

static void begin_stream(Connection *c, const char *body) {
    static const char headers[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n";
    long tokens = number(body, "\"max_completion_tokens\"", number(body, "\"max_tokens\"", 128));
    c->tokens = tokens > 0 ? tokens : 1;
    c->sent = 0;
    c->streaming = true;
    c->itl_ns = 1000 * (uint64_t)number(body, "\"x_itl_us\"", default_itl_us);
    uint64_t due_ns =
        c->received_ns + 1000 * (uint64_t)number(body, "\"x_ttft_us\"", default_ttft_us);
    if (c->itl_ns && number(body, "\"x_sync\"", default_sync))
        due_ns = (due_ns + c->itl_ns - 1) / c->itl_ns * c->itl_ns;
    prepare_chunk(c);
    put(c, headers, sizeof headers - 1);
    queue(c, due_ns);
}

static void answer_stats(Connection *c) {
    struct rusage used;
    char body[256];
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
    double mean_us = stats.chunks ? 1e-3 * (double)stats.late_sum_ns / (double)stats.chunks : 0;
    snprintf(body, sizeof body,
        "{\"chunks\":%" PRIu64 ",\"late_mean_us\":%.3f,\"late_max_us\":%.3f,\"cpu_s\":%.6f}",
        stats.chunks, mean_us, 1e-3 * (double)stats.late_max_ns, cpu_s);
    memset(&stats, 0, sizeof stats);
    put_answer(c, "200 OK", body);
}

// One whole request; head and body each end with a NUL.
static void answer(Connection *c, const char *head, const char *body) {
    c->closing = strcasestr(head, "\r\nconnection: close") != NULL;
    if (!strncmp(head, "POST /v1/chat/completions ", 26))
        begin_stream(c, body);
    else if (!strncmp(head, "GET /v1/models ", 15))
        put_answer(c, "200 OK", "{\"object\":\"list\",\"data\":[{\"id\":\"reference\","
                                "\"object\":\"model\",\"owned_by\":\"headroom\"}]}");
    else if (!strncmp(head, "GET /stats ", 11))
        answer_stats(c);
    else
        put_answer(c, "404 Not Found", "{\"error\":{\"message\":\"no such path\"}}");
}

// Answer what has been read completely. Requests wait while an answer is streamed.
static void answer_read(Connection *c) {
    while (!c->dead && !c->streaming && c->in_length) {
        c->in[c->in_length] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return;
        char *body = end + 4;
        size_t head_length = (size_t)(body - c->in), body_length = 0;
        end[2] = 0;
        const char *header = strcasestr(c->in, "\r\ncontent-length:");
        if (header) body_length = strtoul(header + 17, NULL, 10);
        if (body_length > MAX_REQUEST) { c->dead = true; return; }
        if (c->in_length < head_length + body_length) { end[2] = '\r'; return; }
        char after = body[body_length];
        body[body_length] = 0;
        answer(c, c->in, body);
        body[body_length] = after;
        c->in_length -= head_length + body_length;
        memmove(c->in, body + body_length, c->in_length);
    }
}

// Where READ_SIZE more bytes may be put, and a NUL behind them.
static char *room(Connection *c) {
    if (c->in_length + READ_SIZE >= c->in_size) {
        c->in_size = c->in_length + 2 * READ_SIZE;
        c->in = grown(c->in, c->in_size);
    }
    return c->in + c->in_length;
}

static void take(Connection *c, const char *bytes, size_t length) {
    if (!c->tls) {
        memcpy(room(c), bytes, length);
        c->in_length += length;
        return;
    }
    tls_feed(c->tls, bytes, length);
    int clear;
    while ((clear = tls_read(c->tls, room(c), READ_SIZE)) > 0) c->in_length += (size_t)clear;
    put_encrypted(c);  // of the handshake
    if (clear < 0) c->dead = true;
}

// When the last segment that was received arrived, by the kernel's stamp if there is one.
static uint64_t arrival_ns(struct msghdr *message) {
    struct cmsghdr *stamp = CMSG_FIRSTHDR(message);
    if (!stamp) return now_ns();
    struct timespec wall;
    memcpy(&wall, CMSG_DATA(stamp), sizeof wall);
    uint64_t age = clock_ns(CLOCK_REALTIME) -
                   ((uint64_t)wall.tv_sec * SECOND + (uint64_t)wall.tv_nsec);
    return now_ns() - (age < SECOND ? age : 0);
}

static void read_some(Connection *c) {
    static char bytes[READ_SIZE];
    char note[CMSG_SPACE(sizeof(struct timespec))];
    ssize_t length;
    do {
        struct iovec where = {bytes, sizeof bytes};
        struct msghdr message = {.msg_iov = &where, .msg_iovlen = 1, .msg_control = note,
                                 .msg_controllen = sizeof note};
        length = recvmsg(c->fd, &message, MSG_DONTWAIT);
        if (length < 0 && errno == EAGAIN) return;
        if (length <= 0 || c->in_length + (size_t)length > 2 * MAX_REQUEST) {
            c->dead = true;
            return;
        }
        if (!c->streaming) c->received_ns = arrival_ns(&message);
        take(c, bytes, (size_t)length);
        answer_read(c);
    } while (!c->dead && length == READ_SIZE);
}

static void flush(Connection *c) {
    while (c->out_start < c->out_length) {
        ssize_t taken = send(c->fd, c->out + c->out_start, c->out_length - c->out_start,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
        if (taken < 0 && errno == EAGAIN) return;
        if (taken < 0) { c->dead = true; return; }
        c->out_start += (size_t)taken;
    }
    c->out_start = c->out_length = 0;
    c->blocked = false;
    watch(c, false);
    if (c->streaming && c->heap_index == NOT_QUEUED) queue(c, now_ns());
}

// Close what is dead, or was to be closed and has said everything.
static void reap(Connection *c) {
    if (!c->dead && !(c->closing && !c->streaming && !c->blocked)) return;
    unqueue(c);
    if (c->tls) {
        if (!c->dead && tls_bid_farewell(c->tls)) put_encrypted(c);
        tls_free(c->tls);
    }
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        Connection *c = grown(NULL, sizeof *c);
        *c = (Connection){.fd = fd, .heap_index = NOT_QUEUED, .tls = tls_new()};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(long port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof place;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);  // connections inherit both
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);  // BBR, where preset, paces what is sent
    if (bind(fd, (struct sockaddr *)&place, sizeof place) || listen(fd, 4096) ||
        getsockname(fd, (struct sockaddr *)&place, &length)) {
        perror("server");
        exit(1);
    }
    printf("{\"port\": %d}\n", ntohs(place.sin_port));
    fflush(stdout);
    return fd;
}

static long read_arguments(int count, char **words) {
    long port = 0;
    const char *certificate = NULL, *key = NULL;
    for (int i = 1; i < count; i++) {
        long value = i + 1 < count ? atol(words[i + 1]) : 0;
        if (!strcmp(words[i], "--sync")) default_sync = 1;
        else if (!strcmp(words[i], "--port")) port = value, i++;
        else if (!strcmp(words[i], "--itl-us")) default_itl_us = value, i++;
        else if (!strcmp(words[i], "--ttft-us")) default_ttft_us = value, i++;
        else if (!strcmp(words[i], "--certificate")) certificate = words[++i];
        else if (!strcmp(words[i], "--key")) key = words[++i];
        else { fprintf(stderr, "server: unknown option %s\n", words[i]); exit(2); }
    }
    if (certificate && key) tls_load(certificate, key);
    return port;
}

int main(int count, char **words) {
    long port = read_arguments(count, words);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port);
    static int parent;  // a mark like the listener's: neither is a connection
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &poller};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &parent;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    for (;;) {
        uint64_t now = now_ns();
        for (int left = BATCH; left && heap_length && heap[0].due_ns <= now; left--) {
            Connection *c = heap[0].c;
            send_due(&heap[0], now);
            reap(c);
            now = now_ns();
        }
        struct timespec pause = {0}, *patience = NULL;
        if (heap_length) {
            uint64_t wait = heap[0].due_ns > now ? heap[0].due_ns - now : 0;
            pause.tv_sec = (time_t)(wait / SECOND);
            pause.tv_nsec = (long)(wait % SECOND);
            patience = &pause;
        }
        struct epoll_event ready[BATCH];
        int found = epoll_pwait2(poller, ready, BATCH, patience, NULL);
        for (int i = 0; i < found; i++) {
            char discarded[256];
            if (ready[i].data.ptr == &poller) { accept_all(listener); continue; }
            if (ready[i].data.ptr == &parent) {
                if (read(STDIN_FILENO, discarded, sizeof discarded) <= 0) return 0;
                continue;
            }
            Connection *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT) flush(c);
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_some(c);
            if (!c->streaming && !c->dead && !c->closing) answer_read(c);
            reap(c);
        }
    }
}

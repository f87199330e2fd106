/* A long link: a TCP relay on the loopback interface with a rate, a delay and a buffer like those of a real line.
 *
 *   link TARGET RATE ROUND_TRIP      bytes per second in each direction, seconds
 *
 * Prints the port it listens at, and runs until it is killed. All connections share the link. Each direction holds, for
 * all of them together, as many bytes as are on their way in one round trip at full rate, and takes no more: a larger
 * buffer would acknowledge for the far end and hide a window that is too small. A new connection waits for one round
 * trip, as a handshake does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 64 << 10, KERNEL_BUFFER = 128 << 10, MOST_PIECES = 1 << 16 };

/* One direction of the link. */
typedef struct {
    pthread_mutex_t guard;
    pthread_cond_t room;
    double free_at; /* when the last byte that was taken has left the near end */
    long held;
} Line;

/* A piece of a stream on its way. */
typedef struct {
    double due;
    size_t length;
    char *bytes;
} Piece;

/* One direction of one connection. */
typedef struct {
    Line *line;
    int from, to;
    pthread_mutex_t guard;
    pthread_cond_t changed;
    Piece *pieces;
    unsigned first, last;
    int is_over;
} Stream;

static int target;
static double rate, round_trip;
static long most;
static Line up = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
static Line down = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void sleep_until(double moment) {
    struct timespec t = {(time_t)moment, (long)((moment - (time_t)moment) * 1e9)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void wait_for_room(Line *line) {
    pthread_mutex_lock(&line->guard);
    while (line->held + PIECE > most) pthread_cond_wait(&line->room, &line->guard);
    line->held += PIECE;
    pthread_mutex_unlock(&line->guard);
}

static void give_back(Line *line, long bytes) {
    pthread_mutex_lock(&line->guard);
    line->held -= bytes;
    pthread_cond_broadcast(&line->room);
    pthread_mutex_unlock(&line->guard);
}

/* When a piece that is taken now is due at the far end. */
static double due(Line *line, size_t length) {
    pthread_mutex_lock(&line->guard);
    double moment = now();
    if (line->free_at < moment) line->free_at = moment;
    line->free_at += length / rate;
    double arrival = line->free_at + round_trip / 2;
    pthread_mutex_unlock(&line->guard);
    return arrival;
}

static void append(Stream *stream, Piece piece) {
    pthread_mutex_lock(&stream->guard);
    stream->pieces[stream->last++ % MOST_PIECES] = piece;
    pthread_cond_signal(&stream->changed);
    pthread_mutex_unlock(&stream->guard);
}

/* An empty piece is the end of the stream. */
static void *take_in(void *argument) {
    Stream *stream = argument;
    ssize_t length = 1;
    while (length > 0) {
        char *bytes = malloc(PIECE);
        struct pollfd readable = {stream->from, POLLIN, 0};
        poll(&readable, 1, -1); /* who has nothing to send takes no room */
        wait_for_room(stream->line);
        length = stream->is_over ? 0 : recv(stream->from, bytes, PIECE, 0);
        if (length < 0) length = 0;
        give_back(stream->line, PIECE - length);
        append(stream, (Piece){due(stream->line, length), length, bytes});
    }
    return NULL;
}

static Piece next_piece(Stream *stream) {
    pthread_mutex_lock(&stream->guard);
    while (stream->first == stream->last) pthread_cond_wait(&stream->changed, &stream->guard);
    Piece piece = stream->pieces[stream->first++ % MOST_PIECES];
    pthread_mutex_unlock(&stream->guard);
    return piece;
}

static void pass_on(Stream *stream, const Piece *piece) {
    for (size_t done = 0; done < piece->length && !stream->is_over;) {
        ssize_t n = send(stream->to, piece->bytes + done, piece->length - done, MSG_NOSIGNAL);
        if (n <= 0) {
            stream->is_over = 1;
            shutdown(stream->from, SHUT_RD);
        } else {
            done += n;
        }
    }
}

static void *give_out(void *argument) {
    Stream *stream = argument;
    size_t length = 1;
    while (length > 0) {
        Piece piece = next_piece(stream);
        length = piece.length;
        sleep_until(piece.due);
        pass_on(stream, &piece);
        free(piece.bytes);
        give_back(stream->line, length);
    }
    shutdown(stream->to, SHUT_WR);
    return NULL;
}

static int connect_to_target(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(target)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address)) {
        close(sock);
        return -1;
    }
    return sock;
}

static void limit_buffers(int sock) {
    int bytes = KERNEL_BUFFER, yes = 1;
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static Stream *new_stream(Line *line, int from, int to) {
    Stream *stream = calloc(1, sizeof *stream);
    stream->line = line, stream->from = from, stream->to = to;
    stream->pieces = calloc(MOST_PIECES, sizeof(Piece));
    pthread_mutex_init(&stream->guard, NULL);
    pthread_cond_init(&stream->changed, NULL);
    return stream;
}

static void *serve(void *argument) {
    int near = (int)(long)argument, far = connect_to_target();
    if (far < 0) {
        close(near);
        return NULL;
    }
    limit_buffers(near);
    limit_buffers(far);
    sleep_until(now() + round_trip);
    Stream *streams[] = {new_stream(&up, near, far), new_stream(&down, far, near)};
    pthread_t threads[4];
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[2 * i], NULL, take_in, streams[i]);
        pthread_create(&threads[2 * i + 1], NULL, give_out, streams[i]);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++) {
        free(streams[i]->pieces);
        free(streams[i]);
    }
    close(near);
    close(far);
    return NULL;
}

int main(int count, char **args) {
    if (count != 4) {
        fputs("link TARGET RATE ROUND_TRIP\n", stderr);
        return 2;
    }
    target = atoi(args[1]), rate = atof(args[2]), round_trip = atof(args[3]);
    most = rate * round_trip;
    signal(SIGPIPE, SIG_IGN);
    setpriority(PRIO_PROCESS, 0, -10); /* a line does not wait for processors; only root may say so */
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    limit_buffers(listener);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 128)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        pthread_t thread;
        int near = accept(listener, NULL, NULL);
        if (near < 0) continue;
        pthread_create(&thread, NULL, serve, (void *)(long)near);
        pthread_detach(thread);
    }
}

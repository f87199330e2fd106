/* The load generator: sends prepared bytes as fast as a server takes them, or at a steady rate, and keeps the time.
 *
 *   load http PORT RATE < script     each lane is a connection, and sends its requests one after the other
 *   load websocket PORT LENGTH TICKET     one file, by the protocol of Incoming!! 0.1
 *
 * The script is, for each lane, a line "lane", and for each of its requests a line "request CAPTURE HEAD BODY" (what
 * to keep of the answer: "-" nothing, "b" its body, "l" the path of its Location; bytes of the head; bytes of the
 * body) and then the head. "@@" in a head stands for what was kept last. RATE is in bytes per second and lane; 0: as
 * fast as it goes.
 *
 * Prints one line of JSON. Moments are those of CLOCK_MONOTONIC, in seconds. Bodies are sent by sendfile from memory:
 * they look random, so a WebSocket's are as good as masked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { POOL = 64 << 20, ANSWER = 64 << 10, KINDS = 8, LONGEST_RUN = 600 };

typedef struct {
    char capture;
    size_t head_length;
    long long body_length;
    char *head;
} Request;

typedef struct {
    Request *requests;
    int count, socket;
    char kept[512];
    char input[ANSWER];
    size_t held;
    double last_byte, kind_seconds[KINDS];
    long kind_count[KINDS];
    long long sent;
} Lane;

static int port, pool;
static double rate;
static pthread_barrier_t start;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

static void sleep_until(double moment) {
    struct timespec t = {(time_t)moment, (long)((moment - (time_t)moment) * 1e9)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void fill_pool(void) {
    pool = memfd_create("bytes", 0);
    if (pool < 0 || ftruncate(pool, POOL)) fail("no memory for the bytes");
    uint64_t *words = mmap(NULL, POOL, PROT_READ | PROT_WRITE, MAP_SHARED, pool, 0), state = 0x9e3779b97f4a7c15;
    if (words == MAP_FAILED) fail("no memory for the bytes");
    for (size_t i = 0; i < POOL / sizeof *words; i++) { /* xorshift: looks random enough to be compressed by nobody */
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        words[i] = state;
    }
    munmap(words, POOL);
}

static int connect_to_server(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int sock = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address)) fail("can't connect to %d", port);
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return sock;
}

static void send_text(Lane *lane, const char *text, size_t length, int flags) {
    for (size_t done = 0; done < length;) {
        ssize_t n = send(lane->socket, text + done, length - done, flags | MSG_NOSIGNAL);
        if (n <= 0) fail("the server hung up while a head was sent");
        done += n;
    }
}

/* Sends the next `length` bytes of the pool. */
static void send_pool(Lane *lane, long long length) {
    while (length > 0) {
        off_t offset = lane->sent % POOL;
        size_t piece = POOL - offset < length ? POOL - offset : length;
        ssize_t n = sendfile(lane->socket, pool, &offset, piece);
        if (n <= 0) fail("the server hung up while a body was sent");
        lane->sent += n;
        length -= n;
    }
}

/* The same at the lane's rate, ten times a second. */
static void send_body(Lane *lane, long long length) {
    if (rate == 0) {
        send_pool(lane, length);
    } else {
        double due = now();
        long long piece = rate / 10 < 1 ? 1 : (long long)(rate / 10);
        while (length > 0) {
            long long n = piece < length ? piece : length;
            send_pool(lane, n);
            length -= n;
            due += n / rate;
            sleep_until(due);
        }
    }
    lane->last_byte = now();
}

/* Reads more of an answer. */
static void read_more(Lane *lane) {
    if (lane->held == ANSWER - 1) fail("an answer is too long");
    ssize_t n = recv(lane->socket, lane->input + lane->held, ANSWER - 1 - lane->held, 0);
    if (n <= 0) fail("the server hung up instead of answering");
    lane->held += n;
    lane->input[lane->held] = 0;
}

static void forget(Lane *lane, size_t length) {
    memmove(lane->input, lane->input + length, lane->held - length);
    lane->held -= length;
    lane->input[lane->held] = 0;
}

static size_t read_head(Lane *lane) {
    char *end;
    while (!(end = strstr(lane->input, "\r\n\r\n"))) read_more(lane);
    return end + 4 - lane->input;
}

/* The value of a header, up to the end of its line; NULL without one. */
static const char *header(const char *head, size_t length, const char *name) {
    for (const char *line = strstr(head, "\r\n"); line && line + 4 < head + length; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, strlen(name)) && line[2 + strlen(name)] == ':') {
            const char *value = line + 3 + strlen(name);
            return value + strspn(value, " ");
        }
    return NULL;
}

static void keep(Lane *lane, const char *text, size_t length) {
    if (length >= sizeof lane->kept) fail("an answer to keep is too long");
    memcpy(lane->kept, text, length);
    lane->kept[length] = 0;
}

static void keep_path(Lane *lane, const char *location) {
    if (!location) fail("an answer has no Location");
    const char *scheme = strstr(location, "://"), *end = strstr(location, "\r\n");
    const char *path = scheme && scheme < end ? strchr(scheme + 3, '/') : location;
    keep(lane, path, end - path);
}

/* The length of a chunked body that begins at `start` (RFC 9112, section 7.1); there are no trailers. */
static size_t chunked_length(Lane *lane, size_t start) {
    size_t position = start, size;
    do {
        char *end;
        while (lane->held < position || !(end = strstr(lane->input + position, "\r\n"))) read_more(lane);
        size = strtoul(lane->input + position, NULL, 16);
        position = end + 2 - lane->input + size + 2;
    } while (size);
    return position - start;
}

static void read_answer(Lane *lane, char capture) {
    size_t head = read_head(lane);
    int status = atoi(lane->input + strlen("HTTP/1.1 "));
    const char *length = header(lane->input, head, "Content-Length");
    size_t body = length ? strtoul(length, NULL, 10) : 0;
    if (header(lane->input, head, "Transfer-Encoding")) body = chunked_length(lane, head);
    while (lane->held < head + body) read_more(lane);
    if (status < 200 || status > 299) fail("the server answered %.*s", (int)(head + body), lane->input);
    if (capture == 'l') keep_path(lane, header(lane->input, head, "Location"));
    if (capture == 'b') keep(lane, lane->input + head, body);
    forget(lane, head + body);
}

static void send_head(Lane *lane, const Request *request) {
    int flags = request->body_length ? MSG_MORE : 0;
    const char *gap = strstr(request->head, "@@");
    if (!gap) {
        send_text(lane, request->head, request->head_length, flags);
        return;
    }
    send_text(lane, request->head, gap - request->head, MSG_MORE);
    send_text(lane, lane->kept, strlen(lane->kept), MSG_MORE);
    send_text(lane, gap + 2, request->head + request->head_length - gap - 2, flags);
}

static void *run_lane(void *argument) {
    Lane *lane = argument;
    lane->socket = connect_to_server();
    pthread_barrier_wait(&start);
    int kind = 0; /* which request of a life; one whose answer is kept begins it */
    for (int i = 0; i < lane->count; i++) {
        Request *request = &lane->requests[i];
        kind = request->capture != '-' ? 0 : kind + 1 < KINDS ? kind + 1 : kind;
        double began = now();
        send_head(lane, request);
        if (request->body_length) send_body(lane, request->body_length);
        read_answer(lane, request->capture);
        lane->kind_seconds[kind] += now() - began;
        lane->kind_count[kind]++;
    }
    return NULL;
}

static void append_request(Lane *lane, char capture, size_t head_length, long long body_length) {
    if ((lane->count & (lane->count - 1)) == 0)
        lane->requests = realloc(lane->requests, sizeof(Request) * (lane->count ? 2 * lane->count : 1));
    Request *request = &lane->requests[lane->count++];
    *request = (Request){capture, head_length, body_length, malloc(head_length + 1)};
    if (fread(request->head, 1, head_length, stdin) != head_length) fail("the script ends in a head");
    request->head[head_length] = 0;
}

static Lane **read_script(int *count) {
    Lane **lanes = NULL;
    char line[128], capture;
    size_t head;
    long long body;
    *count = 0;
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "lane\n")) {
            lanes = realloc(lanes, sizeof(Lane *) * ++*count);
            lanes[*count - 1] = calloc(1, sizeof(Lane));
        } else if (*count && sscanf(line, "request %c %zu %lld", &capture, &head, &body) == 3) {
            append_request(lanes[*count - 1], capture, head, body);
        } else {
            fail("the script has the line %s", line);
        }
    }
    return lanes;
}

static void print_result(double began, Lane **lanes, int count) {
    double ended = now(), last_byte = 0, seconds[KINDS] = {0};
    long counts[KINDS] = {0};
    long long sent = 0;
    for (int i = 0; i < count; i++) {
        sent += lanes[i]->sent;
        if (lanes[i]->last_byte > last_byte) last_byte = lanes[i]->last_byte;
        for (int k = 0; k < KINDS; k++) {
            seconds[k] += lanes[i]->kind_seconds[k];
            counts[k] += lanes[i]->kind_count[k];
        }
    }
    printf("{\"began\": %.6f, \"ended\": %.6f, \"last_byte\": %.6f, \"sent\": %lld, \"latencies\": [", began, ended,
           last_byte, sent);
    const char *comma = "";
    for (int k = 0; k < KINDS; k++)
        if (counts[k]) {
            printf("%s%.9f", comma, seconds[k] / counts[k]);
            comma = ", ";
        }
    puts("]}");
}

static void run_http(void) {
    int count;
    Lane **lanes = read_script(&count);
    pthread_t *threads = calloc(count, sizeof *threads);
    pthread_barrier_init(&start, NULL, count + 1);
    for (int i = 0; i < count; i++) pthread_create(&threads[i], NULL, run_lane, lanes[i]);
    pthread_barrier_wait(&start);
    double began = now();
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    print_result(began, lanes, count);
}

/* -- WebSocket ------------------------------------------------------------------------------------------------- */

/* A frame's head with a mask of zeros for text: then text can be written as it is. */
static void send_frame_head(Lane *lane, int opcode, size_t length) {
    unsigned char head[14] = {0x80 | opcode};
    size_t used = 2;
    if (length < 126) {
        head[1] = 0x80 | length;
    } else {
        int bytes = length < 65536 ? 2 : 8;
        head[1] = 0x80 | (bytes == 2 ? 126 : 127);
        for (int i = 0; i < bytes; i++) head[used++] = length >> 8 * (bytes - 1 - i);
    }
    if (opcode == 2) memcpy(head + used, "\x37\xfa\x21\x3d", 4);
    send_text(lane, (char *)head, used + 4, MSG_MORE);
}

static void send_message(Lane *lane, const char *text) {
    send_frame_head(lane, 1, strlen(text));
    send_text(lane, text, strlen(text), 0);
}

/* The next text message of the server's; control frames are passed over. */
static void read_message(Lane *lane, char *text, size_t room) {
    for (;;) {
        while (lane->held < 4) read_more(lane);
        unsigned char *frame = (unsigned char *)lane->input;
        size_t length = frame[1] & 0x7f, head = 2;
        if (length == 126) length = frame[2] << 8 | frame[3], head = 4;
        if (length == 127 || length >= room) fail("a message is too long");
        while (lane->held < head + length) read_more(lane);
        int opcode = frame[0] & 0x0f;
        if (opcode == 8) fail("the server closed the WebSocket: %.*s", (int)length, lane->input + head);
        memcpy(text, lane->input + head, length);
        text[length] = 0;
        forget(lane, head + length);
        if (opcode == 1) return;
    }
}

static long long number(const char *text, const char *key) {
    const char *found = strstr(text, key);
    if (!found) fail("%s is missing in %s", key, text);
    return atoll(strchr(found, ':') + 1);
}

static void expect(Lane *lane, const char *kind, char *text, size_t room) {
    read_message(lane, text, room);
    if (!strstr(text, kind)) fail("%s came where %s was due", text, kind);
}

static void shake_hands(Lane *lane) {
    char text[512];
    int length = snprintf(text, sizeof text,
                          "GET /incoming/0.1/frontend/upload_ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                          "Sec-WebSocket-Version: 13\r\n\r\n",
                          port);
    send_text(lane, text, length, 0);
    size_t head = read_head(lane);
    if (!strstr(lane->input, " 101 ")) fail("no WebSocket: %.*s", (int)head, lane->input);
    forget(lane, head);
}

static void run_websocket(long long length, const char *ticket) {
    char text[1024];
    Lane *lane = calloc(1, sizeof *lane), *lanes[] = {lane};
    lane->socket = connect_to_server();
    double began = now();
    shake_hands(lane);
    snprintf(text, sizeof text,
             "{\"MsgType\": \"MsgUploadReq\", \"MsgData\": {\"Id\": \"%s\", \"LengthBytes\": %lld, \"Name\": \"f\"}}",
             ticket, length);
    send_message(lane, text);
    expect(lane, "MsgUploadConf", text, sizeof text);
    long long chunk = number(text, "ChunkSizeKB") * 1024, ahead = number(text, "SendAhead"), acknowledged = 0;
    send_message(lane, "{\"MsgType\": \"MsgAck\", \"MsgData\": {\"Ack\": true}}");
    while (acknowledged < length) {
        while (lane->sent < length && lane->sent - acknowledged < chunk * ahead) {
            long long piece = length - lane->sent < chunk ? length - lane->sent : chunk;
            send_frame_head(lane, 2, piece);
            send_pool(lane, piece);
            lane->last_byte = now();
        }
        expect(lane, "MsgChunkAck", text, sizeof text);
        acknowledged += number(text, "ChunkSize");
    }
    expect(lane, "MsgAllDone", text, sizeof text);
    print_result(began, lanes, 1);
}

int main(int count, char **args) {
    signal(SIGPIPE, SIG_IGN);
    alarm(LONGEST_RUN);
    fill_pool();
    if (count > 2) port = atoi(args[2]);
    if (count == 4 && !strcmp(args[1], "http")) {
        rate = atof(args[3]);
        run_http();
    } else if (count == 5 && !strcmp(args[1], "websocket")) {
        run_websocket(atoll(args[3]), args[4]);
    } else {
        fail("load http PORT RATE, or load websocket PORT LENGTH TICKET");
    }
    return 0;
}

/*
 * xenstore_client SOCKET LOAD DEPTH CONNECTIONS SECONDS: loads a XenStore server and prints what it
 * did in a second. One thread; each connection keeps DEPTH requests (or transactions) under way, and
 * sends all that it may in one write.
 *
 *   read         READ of a node of 16 bytes; counts replies
 *   write        WRITE of 16 bytes to nodes that exist; counts replies
 *   transaction  START, READ, WRITE, END; counts commits
 *   events       the first connection writes, all watch; counts events
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { READ = 2, WATCH = 4, START = 6, END = 7, WRITE = 11, EVENT = 15, ERROR = 16 };
enum { HEADER = 16, BUFFER = 1 << 18, KEYS = 256, DEPTH_MAX = 256, CONNECTIONS_MAX = 64 };

struct connection {
	int fd, index;
	unsigned turn;
	size_t in_used, out_used;
	uint32_t transaction[DEPTH_MAX];
	char in[BUFFER], out[BUFFER];
};

static struct connection connections[CONNECTIONS_MAX];
static unsigned long long replies, commits, events;
static char load;

static void fail(const char *what)
{
	fprintf(stderr, "xenstore_client: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void put(struct connection *to, uint32_t type, uint32_t id, uint32_t tx, const void *bytes, uint32_t length)
{
	uint32_t header[4] = { type, id, tx, length };
	if (to->out_used + HEADER + length > BUFFER)
		fail("too much is under way");
	memcpy(to->out + to->out_used, header, HEADER);
	memcpy(to->out + to->out_used + HEADER, bytes, length);
	to->out_used += HEADER + length;
}

/* Writes that are under way at once go to nodes of their own, so that no commit meets another. */
static uint32_t key(struct connection *of, unsigned chain, char *into)
{
	unsigned each = load == 't' ? chain : of->turn + chain * 7;
	return sprintf(into, "/bench/%d/%u", of->index, each % KEYS) + 1;
}

static void put_write(struct connection *to, uint32_t id, uint32_t tx)
{
	char bytes[128];
	uint32_t length = key(to, id, bytes);
	memcpy(bytes + length, "0123456789abcdef", 16);
	put(to, WRITE, id, tx, bytes, length + 16);
}

static void put_read(struct connection *to, uint32_t id, uint32_t tx)
{
	char bytes[128];
	put(to, READ, id, tx, bytes, key(to, id, bytes));
}

static void begin(struct connection *to, uint32_t id)
{
	to->turn++;
	if (load == 'r')
		put_read(to, id, 0);
	else if (load == 't')
		put(to, START, id, 0, "", 1);
	else
		put_write(to, id, 0);
}

static void take(struct connection *from, const uint32_t *header, const char *payload)
{
	uint32_t type = header[0], id = header[1];
	if (type == EVENT) {
		events++;
		return;
	}
	if (type == ERROR) {
		fprintf(stderr, "xenstore_client: the server says %s\n", payload);
		exit(1);
	}
	if (type == WATCH)
		return;
	replies++;
	if (load == 't' && type == START) {
		from->transaction[id] = strtoul(payload, NULL, 10);
		put_read(from, id, from->transaction[id]);
	} else if (load == 't' && type == READ) {
		put_write(from, id, from->transaction[id]);
	} else if (load == 't' && type == WRITE) {
		put(from, END, id, from->transaction[id], "T", 2);
	} else {
		commits++;
		begin(from, id);
	}
}

static void receive(struct connection *from)
{
	ssize_t got = read(from->fd, from->in + from->in_used, BUFFER - from->in_used);
	if (got <= 0)
		fail("the server is gone");
	from->in_used += got;
	size_t at = 0;
	while (from->in_used - at >= HEADER) {
		uint32_t header[4];
		memcpy(header, from->in + at, HEADER);
		if (from->in_used - at < HEADER + header[3])
			break;
		take(from, header, from->in + at + HEADER);
		at += HEADER + header[3];
	}
	memmove(from->in, from->in + at, from->in_used - at);
	from->in_used -= at;
}

static void flush(struct connection *to)
{
	if (to->out_used == 0)
		return;
	ssize_t sent = write(to->fd, to->out, to->out_used);
	if (sent < 0 && errno != EAGAIN)
		fail("cannot send");
	if (sent > 0) {
		memmove(to->out, to->out + sent, to->out_used - sent);
		to->out_used -= sent;
	}
}

static void set_up(struct connection *of, const char *path, int index, int watch)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	of->index = index;
	of->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (of->fd < 0 || connect(of->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
		fail(path);
	for (of->turn = 0; of->turn < KEYS; of->turn++) {
		char bytes[128];
		uint32_t length = sprintf(bytes, "/bench/%d/%u", index, of->turn) + 1, header[4] = { WRITE, 0, 0, length + 16 };
		memcpy(bytes + length, "0123456789abcdef", 16);
		char answer[HEADER + 3];
		if (write(of->fd, header, HEADER) != HEADER || write(of->fd, bytes, length + 16) < 0 ||
		    recv(of->fd, answer, sizeof(answer), MSG_WAITALL) != sizeof(answer))
			fail("cannot set up");
	}
	if (watch)
		put(of, WATCH, 0, 0, "/bench/0\0token", sizeof("/bench/0\0token"));
	if (fcntl(of->fd, F_SETFL, O_NONBLOCK) != 0)
		fail("fcntl");
}

static void run(int count, double seconds)
{
	struct pollfd pollers[CONNECTIONS_MAX];
	for (double end = now() + seconds; now() < end;) {
		for (int i = 0; i < count; i++) {
			flush(&connections[i]);
			short out = connections[i].out_used > 0 ? POLLOUT : 0;
			pollers[i] = (struct pollfd){ connections[i].fd, POLLIN | out, 0 };
		}
		if (poll(pollers, count, 20000) <= 0)
			fail("the server says nothing");
		for (int i = 0; i < count; i++)
			if (pollers[i].revents & (POLLIN | POLLHUP))
				receive(&connections[i]);
	}
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: xenstore_client SOCKET LOAD DEPTH CONNECTIONS SECONDS\n");
		return 2;
	}
	load = argv[2][0];
	int depth = atoi(argv[3]), count = atoi(argv[4]);
	double seconds = atof(argv[5]);
	if (depth < 1 || depth > DEPTH_MAX || count < 1 || count > CONNECTIONS_MAX)
		fail("DEPTH or CONNECTIONS is out of range");
	for (int i = 0; i < count; i++)
		set_up(&connections[i], argv[1], i, load == 'e');
	for (int i = 0; i < (load == 'e' ? 1 : count); i++)
		for (int chain = 0; chain < depth; chain++)
			begin(&connections[i], chain);
	run(count, seconds / 4);
	replies = commits = events = 0;
	double start = now();
	run(count, seconds);
	double took = now() - start;
	printf("%.0f\n", (load == 'e' ? events : load == 't' ? commits : replies) / took);
	return 0;
}

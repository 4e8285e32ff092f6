/*
 * A dm-user daemon as somebody might write it for the real device: one channel, blocking read(2) and
 * write(2), nothing but the C library. The disk is a file.
 *
 *   dm_user_daemon CONTROL DISK [MODE]
 *
 * MODE is "serve" (the default), or:
 *   bytes  reads and writes a byte at a time
 *   fail   answers everything with ERROR
 *   stall  never answers a WRITE with data; prints "stalled COUNT times"
 *   die    is killed in the middle of the first WRITE, with half of its data read
 *   ticks  a timer interrupts reads: prints "interrupted" after the third EINTR and stops the timer
 *
 * Prints "open" when the channel is open. Exit code 0 when the target is removed, 3 after SIGTERM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

struct message {
  uint64_t seq, type, flags, sector, len;
};

enum { READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = 6 };
enum { SUCCESS, FAILURE, UNSUPPORTED };
#define PREFLUSH 0x400
#define FUA 0x200

static int control, disk;
static size_t piece = SIZE_MAX;

/* It runs only if the read that the process waits in can be interrupted. */
static void on_term(int number) {
  (void)number;
  _exit(3);
}

static void on_tick(int number) { (void)number; }

static void set_timer(long us) {
  struct itimerval timer = {.it_interval.tv_usec = us, .it_value.tv_usec = us};
  setitimer(ITIMER_REAL, &timer, NULL);
}

static void say(const char *format, uint64_t number) {
  printf(format, number);
  fflush(stdout);
}

/* A read was interrupted and took nothing. */
static void interrupted(void) {
  static int count;
  if (++count != 3) return;
  set_timer(0);
  say("interrupted\n", 0);
}

static void stop(const char *what) {
  if (errno == ENOTBLK) exit(0);
  perror(what);
  exit(1);
}

static void read_all(void *to, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t want = length - at < piece ? length - at : piece;
    ssize_t count = read(control, (char *)to + at, want);
    if (count >= 0) at += (size_t)count;
    else if (errno == EINTR) interrupted();
    else stop("read");
  }
}

static void write_all(const void *from, size_t length) {
  for (size_t at = 0; at < length;) {
    size_t want = length - at < piece ? length - at : piece;
    ssize_t count = write(control, (const char *)from + at, want);
    if (count < 0) stop("write");
    at += (size_t)count;
  }
}

static int serve(const struct message *request, char *data) {
  off_t offset = (off_t)request->sector * 512;
  size_t length = request->len;
  switch (request->type) {
  case READ:
    memset(data, 0, length);
    return pread(disk, data, length, offset) < 0 ? FAILURE : SUCCESS;
  case WRITE:
    if ((request->flags & PREFLUSH) != 0 && fdatasync(disk) != 0) return FAILURE;
    if (pwrite(disk, data, length, offset) != (ssize_t)length) return FAILURE;
    if ((request->flags & FUA) != 0 && fdatasync(disk) != 0) return FAILURE;
    return SUCCESS;
  case FLUSH:
    return fdatasync(disk) == 0 ? SUCCESS : FAILURE;
  case DISCARD:
  case WRITE_ZEROES: {
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return fallocate(disk, mode, offset, (off_t)length) == 0 ? SUCCESS : FAILURE;
  }
  default:
    return UNSUPPORTED;
  }
}

int main(int argc, char **argv) {
  const char *mode = argc > 3 ? argv[3] : "serve";
  struct sigaction term = {.sa_handler = on_term}, tick = {.sa_handler = on_tick};
  sigaction(SIGTERM, &term, NULL);
  sigaction(SIGALRM, &tick, NULL); /* without SA_RESTART: reads end with EINTR */
  if (strcmp(mode, "bytes") == 0) piece = 1;
  control = argc > 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
  disk = argc > 2 ? open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
  if (control < 0 || disk < 0) {
    perror("open");
    return 2;
  }
  say("open\n", 0);
  if (strcmp(mode, "ticks") == 0) set_timer(5000);
  char *data = NULL;
  uint64_t stalled = 0;
  for (;;) {
    struct message request, reply = {0};
    read_all(&request, sizeof request);
    data = realloc(data, request.len + 1);
    if (data == NULL) return 4;
    if (request.type == WRITE && strcmp(mode, "die") == 0 && request.len > 0) {
      read_all(data, request.len / 2);
      raise(SIGKILL);
    }
    if (request.type == WRITE) read_all(data, request.len);
    if (request.type == WRITE && strcmp(mode, "stall") == 0 && request.len > 0) {
      say("stalled %" PRIu64 " times\n", ++stalled);
      continue;
    }
    reply.seq = request.seq;
    reply.type = strcmp(mode, "fail") == 0 ? FAILURE : (uint64_t)serve(&request, data);
    write_all(&reply, sizeof reply);
    if (request.type == READ && reply.type == SUCCESS) write_all(data, request.len);
  }
}

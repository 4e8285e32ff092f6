/** Tests of epoll sets and of the clock that goes with them. @module */
import assert from "node:assert/strict";
import { monotonicUs, processorsOnline } from "../../lib/sys/clock.ts";
import { EpollSet } from "../../lib/sys/epoll.ts";
import {
  clearEvent,
  closeEvent,
  openEvent,
  POLL_IN,
  POLL_OUT,
  signalEvent,
} from "../../lib/sys/poll.ts";
import { closeDescriptor, openSocketPair } from "../../lib/sys/socket.ts";

Deno.test("EpollSet.wait() gives those that are ready, with their tags and bits", () => {
  const set = new EpollSet(2);
  const events = [openEvent(), openEvent(), openEvent()];
  try {
    for (const [index, fd] of events.entries()) set.add(fd, POLL_IN, index - 1);
    assert.equal(set.wait(0), 0);
    signalEvent(events[0] ?? -1);
    signalEvent(events[2] ?? -1);
    assert.equal(set.wait(-1), 2);
    const tags = [set.tag(0), set.tag(1)].sort((a, b) => a - b);
    assert.deepEqual(tags, [-1, 1]);
    assert.deepEqual([set.events(0), set.events(1)], [POLL_IN, POLL_IN]);
    clearEvent(events[0] ?? -1);
    assert.equal(set.wait(0), 1);
    assert.equal(set.tag(0), 1);
  } finally {
    set.close();
    for (const fd of events) closeEvent(fd);
  }
});

Deno.test("EpollSet.wait() gives what did not fit at the next call", () => {
  const set = new EpollSet(1);
  const events = [openEvent(), openEvent()];
  try {
    for (const [index, fd] of events.entries()) {
      set.add(fd, POLL_IN, index);
      signalEvent(fd);
    }
    const seen = new Set<number>();
    for (let turn = 0; turn < 4; turn++) {
      assert.equal(set.wait(0), 1);
      seen.add(set.tag(0));
    }
    assert.equal(seen.size, 2);
  } finally {
    set.close();
    for (const fd of events) closeEvent(fd);
  }
});

Deno.test("EpollSet.change() and remove() change what is waited for", () => {
  const set = new EpollSet(4);
  const [here, there] = openSocketPair();
  try {
    set.add(here, POLL_IN, 7);
    assert.equal(set.wait(0), 0);
    set.change(here, POLL_IN | POLL_OUT, 8);
    assert.equal(set.wait(0), 1);
    assert.deepEqual([set.tag(0), set.events(0)], [8, POLL_OUT]);
    set.change(here, 0, 8);
    assert.equal(set.wait(0), 0);
    set.change(here, POLL_OUT, 8);
    set.remove(here);
    assert.equal(set.wait(0), 0);
    assert.throws(() => set.remove(here), { code: "ENOENT" });
    assert.throws(() => set.add(-1, POLL_IN, 1), { code: "EBADF" });
  } finally {
    set.close();
    closeDescriptor(here);
    closeDescriptor(there);
  }
});

Deno.test("monotonicUs() goes as fast as the clock of the runtime", () => {
  const begun = performance.now(), from_us = monotonicUs();
  while (performance.now() - begun < 20);
  const passed_us = monotonicUs() - from_us;
  const most_us = (performance.now() - begun) * 1000;
  assert.ok(passed_us >= 19_000 && passed_us <= most_us + 1_000, `${passed_us} of ${most_us}`);
});

Deno.test("processorsOnline() is at least what this process may use", () => {
  assert.ok(processorsOnline() >= navigator.hardwareConcurrency);
});

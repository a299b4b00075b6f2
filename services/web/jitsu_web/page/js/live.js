// Keeps up with the stream of events.
//
//     state        what happens                      then
//     connecting   the stream answers                live: the page reads everything if it has to, then follows
//     connecting   no answer, or an error            lost: wait, twice as long each time
//     connecting   401                               signed out: stop
//     live         the stream ends, or is silent     lost
//     live         a reset                           live: the page reads everything again
//     lost         the wait is over, or the machine  connecting, with the id of the last event
//                  is on the network again
//
// jitsu-web sends a comment when nothing happens, so silence means that the connection is dead.

import { api } from "./api.js";
import { StreamParser, retryDelay } from "./stream.js";

const SILENCE_S = 40;

export class Live {
  /** `on` has event({type, data}), state(name, secondsUntilNext), resumed() and signedOut(). */
  constructor(on) {
    this.on = on;
    this.lastId = "";
    this.attempt = 0;
    this.stopped = true;
    this.abort = null;
    this.wake = null;
    window.addEventListener("online", () => this.wake?.());
    document.addEventListener("visibilitychange", () => !document.hidden && this.wake?.());
  }

  start() {
    if (!this.stopped) return;
    this.stopped = false;
    this.run();
  }

  stop() {
    this.stopped = true;
    this.abort?.abort();
    this.wake?.();
  }

  /** Try again now, instead of at the end of the wait. */
  retry() {
    this.wake?.();
  }

  async run() {
    while (!this.stopped) {
      try {
        this.on.state("connecting");
        await this.follow();
      } catch (error) {
        if (error.status === 401) {
          this.stopped = true;
          this.on.signedOut();
          return;
        }
      }
      if (this.stopped) return;
      const wait = retryDelay(this.attempt, Math.random());
      this.attempt += 1;
      this.on.state("lost", wait);
      await this.pause(wait);
    }
  }

  async follow() {
    this.abort = new AbortController();
    const response = await api.events(this.lastId, this.abort.signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new StreamParser();
    parser.lastId = this.lastId;
    this.on.state("live");
    this.on.resumed();
    for (;;) {
      const { done, value } = await this.within(reader.read());
      if (done) return;
      this.attempt = 0;
      for (const event of parser.feed(value)) {
        this.lastId = event.id;
        this.dispatch(event);
      }
    }
  }

  dispatch(event) {
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      return; // Nothing of ours; the next one may be.
    }
    this.on.event({ type: event.type, data });
  }

  /** Wait for a reading; a silence that is too long ends the connection. */
  async within(reading) {
    let timer;
    const silence = new Promise((_, reject) => {
      timer = setTimeout(() => {
        this.abort.abort();
        reject(new Error("silent"));
      }, SILENCE_S * 1000);
    });
    try {
      return await Promise.race([reading, silence]);
    } finally {
      clearTimeout(timer);
    }
  }

  pause(seconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

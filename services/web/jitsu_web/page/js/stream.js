// The format of an event stream (HTML Living Standard, "Server-sent events"), and when to connect again. Pure.
// The page reads the stream itself, and not with EventSource: that gives up after an answer that is not 200, cannot
// say why, and does not notice a connection on which nothing comes any longer.

/** Makes events of the text of a stream, which may be cut anywhere. */
export class StreamParser {
  constructor() {
    this.rest = "";
    this.fresh();
    this.lastId = "";
  }

  fresh() {
    this.data = [];
    this.type = "";
  }

  /** Return the events that are complete with this text: {type, data, id}. */
  feed(text) {
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.data.length) events.push({ type: this.type || "message", data: this.data.join("\n"), id: this.lastId });
        this.fresh();
      } else this.field(line);
    }
    return events;
  }

  field(line) {
    if (line.startsWith(":")) return;
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    else if (name === "event") this.type = value;
    else if (name === "id" && !value.includes("\0")) this.lastId = value;
  }
}

/** Return how many seconds to wait before connecting again: twice as long each time, and a part of it by chance, so
 * that twenty pages do not all come back in the same moment. */
export function retryDelay(attempt, chance) {
  return Math.min(15, 0.5 * 2 ** Math.min(attempt, 10)) * (0.75 + 0.5 * chance);
}

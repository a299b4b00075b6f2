// What the page says, in words. Nothing here touches the document or the clock: `now` is a parameter, in Unix seconds.

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;

/** Return a duration as people say it: "0.3 s", "12 s", "4 min", "2 h 5 min", "3 days". */
export function duration(seconds) {
  const s = Math.max(0, Number(seconds) || 0);
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${trim(s, 1)} s`;
  if (s < 99.5) return `${Math.round(s)} s`;
  if (s < HOUR - 30) return `${Math.round(s / MINUTE)} min`;
  if (s < DAY - 30) {
    const minutes = Math.round(s / MINUTE);
    return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
  }
  const days = Math.round(s / DAY);
  return days === 1 ? "1 day" : `${number(days)} days`;
}

/** Return milliseconds with as many digits as say something: "0.4 ms", "18 ms", "1,204 ms". */
export function milliseconds(seconds) {
  const ms = seconds * 1000;
  return `${ms < 9.95 ? ms.toFixed(1) : number(Math.round(ms))} ms`;
}

function trim(value, digits) {
  return value.toFixed(digits).replace(/\.0+$/, "");
}

/** Return a count with thousands apart: "2,000". */
export function number(value) {
  return Number(value || 0).toLocaleString("en-US", { maximumFractionDigits: 0 });
}

/** Return "1 query", "2 queries". */
export function count(amount, one, many = `${one}s`) {
  return `${number(amount)} ${amount === 1 ? one : many}`;
}

/** Return Unix seconds of what the API gives as a time: seconds, or ISO 8601; null if it is neither. */
export function timeOf(value) {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  if (typeof value !== "string" || value === "") return null;
  const parsed = Date.parse(value);
  return Number.isNaN(parsed) ? null : parsed / 1000;
}

/** Return "3 min ago", "just now", "in 4 min". */
export function when(value, now) {
  const at = timeOf(value);
  if (at === null) return "";
  if (Math.abs(now - at) < 2) return "just now";
  return at > now ? `in ${duration(at - now)}` : `${duration(now - at)} ago`;
}

/** Return the time of day, with the date if it is another day. */
export function clockTime(value, now) {
  const at = timeOf(value);
  if (at === null) return "";
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  if (date.toDateString() === new Date(now * 1000).toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

/** Return memory that was not used, over time: "12 GiB·h". */
export function memoryTime(bytesSeconds) {
  const gibHours = (Number(bytesSeconds) || 0) / 1024 ** 3 / HOUR;
  if (gibHours <= 0) return "–";
  if (gibHours < 0.1) return `${Math.max(1, Math.round(gibHours * 1024))} MiB·h`;
  return `${gibHours < 9.95 ? trim(gibHours, 1) : number(Math.round(gibHours))} GiB·h`;
}

/** The same for a screen reader, which would read "GiB·h" letter by letter. */
export function memoryTimeSpoken(bytesSeconds) {
  const short = memoryTime(bytesSeconds);
  if (short === "–") return "no memory saved yet";
  return `${short.replace("GiB·h", "gibibyte hours").replace("MiB·h", "mebibyte hours")} of memory saved`;
}

/** Return a text with a capital at its start. */
export function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : "";
}

/** Return the words of a list: "a, b and c". */
export function listed(words) {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
}

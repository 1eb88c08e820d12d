/**
 * Server-sent events out of a byte stream. Pure: bytes in, events out.
 *
 * Any of LF, CR and CRLF ends a line, wherever the chunks are cut, and nothing else does: U+2028 inside the data
 * is data.
 */

/** One event: its type (`message` when unnamed) and its data, lines joined by LF. */
export interface SseEvent {
  event: string;
  data: string;
}

/** The longest event that is held in memory, in UTF-16 units. */
export const MAX_EVENT_LENGTH = 64 * 1024 * 1024;

/** Collects bytes and gives the events they complete. An event the stream ends within is dropped. */
export class SseDecoder {
  readonly #text = new TextDecoder();
  #partial: string[] = [];
  #partialLength = 0;
  #dataLength = 0;
  #skipLf = false;
  #event = "";
  #data: string[] = [];

  /**
   * The events that `chunk` completes.
   *
   * @throws RangeError: one event grew past `MAX_EVENT_LENGTH`.
   */
  *feed(chunk: Uint8Array): Generator<SseEvent, void, undefined> {
    for (const line of this.#lines(this.#text.decode(chunk, { stream: true }))) {
      if (line !== "") {
        this.#field(line);
      } else if (this.#data.length > 0) {
        yield this.#dispatch();
      } else {
        this.#dispatch();
      }
    }
  }

  *#lines(text: string): Generator<string, void, undefined> {
    if (text === "") return;
    let from = this.#skipLf && text[0] === "\n" ? 1 : 0; // the LF of a CRLF that fell into two chunks
    this.#skipLf = text.endsWith("\r");
    const ends = /\r\n|\n|\r/g;
    ends.lastIndex = from;
    for (let end = ends.exec(text); end !== null; end = ends.exec(text)) {
      this.#partial.push(text.slice(from, end.index));
      from = ends.lastIndex;
      const line = this.#partial.join("");
      this.#partial = [];
      this.#partialLength = 0;
      yield line;
    }
    const rest = text.slice(from);
    if (rest !== "") {
      this.#partial.push(rest);
      this.#partialLength += rest.length;
      this.#check();
    }
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (name === "event") {
      this.#event = value;
    } else if (name === "data") {
      this.#data.push(value);
      this.#dataLength += value.length;
      this.#check();
    } // comments (keep-alives), ids and fields we do not know
  }

  #dispatch(): SseEvent {
    const event = { event: this.#event || "message", data: this.#data.join("\n") };
    this.#event = "";
    this.#data = [];
    this.#dataLength = 0;
    return event;
  }

  #check(): void {
    if (this.#partialLength > MAX_EVENT_LENGTH || this.#dataLength > MAX_EVENT_LENGTH) {
      throw new RangeError(`an event of the stream is longer than ${MAX_EVENT_LENGTH} characters`);
    }
  }
}

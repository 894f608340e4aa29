/** The last answers by their requests: another view of the same vectors, or another query, need not ask again. */

import { embed } from "./server.js";

const MAX_KEPT = 6;

export class Answers {
  #kept = new Map();

  /** undefined where there is none */
  kept(body) {
    return this.#kept.get(JSON.stringify(body));
  }

  /** Ask the server, whatever is kept. Raises ServerError. */
  async ask(body) {
    const answer = await embed(body);
    const key = JSON.stringify(body);
    this.#kept.delete(key);
    this.#kept.set(key, answer);
    if (this.#kept.size > MAX_KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return answer;
  }
}

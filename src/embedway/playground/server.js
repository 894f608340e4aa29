/** The server's routes, and the key they may need. Addresses are relative to the page: a proxy may add a prefix. */

import { decode } from "./vectors.js";

const KEY = "embedway-api-key";

/** An answer that is no 2xx, or none at all (`status` 0). `message` is the server's own. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = null, param = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, requestId });
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => sessionStorage.setItem(KEY, key),
  forget: () => sessionStorage.removeItem(KEY),
};

export const addressOf = (route) => new URL(route, document.baseURI).href;

export const listModels = async () => (await call("v1/models")).data;

/** Of the first of the served models where `model` is not given. */
export const modelInfo = (model) => call(model ? `model_info?model=${encodeURIComponent(model)}` : "model_info");

/** `POST /v1/embeddings` → `{vectors, tokens, milliseconds}`; the time is this page's, from sending to having read. */
export async function embed(body) {
  const startedAt = performance.now();
  const answer = await call("v1/embeddings", body);
  const milliseconds = performance.now() - startedAt;
  const vectors = answer.data.map((entry) => decode(entry.embedding, body.output_dtype ?? "float32"));
  return { vectors, tokens: answer.usage.prompt_tokens, milliseconds };
}

async function call(route, body) {
  const headers = {};
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  let response;
  try {
    response = await fetch(addressOf(route), { method, headers, body: body && JSON.stringify(body) });
  } catch (error) {
    throw new ServerError(`The server does not answer (${error.message}).`);
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const { message = `The answer has status ${response.status} and is no JSON.`, code, param } = answer?.error ?? {};
  throw new ServerError(message, {
    status: response.status,
    code,
    param,
    requestId: response.headers.get("X-Request-Id"),
  });
}

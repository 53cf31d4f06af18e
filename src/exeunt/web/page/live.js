// Server-sent events, read with fetch so that an API key can be sent along.
const key = { value: "" };
const headers = () => (key.value ? { Authorization: `Bearer ${key.value}` } : {});
export const useKey = (value) => { key.value = value; };

/** Ask the server. What it answers in place of what was asked is an Error with its `status`. */
export async function request(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (!response.ok) throw Object.assign(new Error(await problemOf(response)), { status: response.status });
  return response;
}

/** Ask the server with a body of JSON, and return the JSON that it answers. */
export const send = async (method, path, body) => (await request(path, {
  method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
})).json();

async function problemOf(response) {
  const text = await response.text();
  try {
    const { detail, error } = JSON.parse(text);
    const why = detail ?? error?.message ?? error;
    return typeof why === "string" ? why : text;
  } catch {
    return text || `The server answered ${response.status}.`;
  }
}

/** Yield the events as they come, until the connection ends. */
export async function* events() {
  const response = await request("events", { headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (data) yield JSON.parse(data);
    }
  }
}

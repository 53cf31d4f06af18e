// Turns typed texts into the tensors that a network takes.
import { Tokenizer } from "./tokenizers.min.mjs";

const tokenizers = new Map();

async function tokenizerIn(folder) {
  if (!tokenizers.has(folder)) {
    const read = async (name) => (await fetch(new URL(`./${folder}/${name}`, import.meta.url))).json();
    tokenizers.set(folder, new Tokenizer(await read("tokenizer.json"), await read("tokenizer_config.json")));
  }
  return tokenizers.get(folder);
}

/** Return the tensors of a text or a pair of texts by name, as {type, data, dims}. `ways`: how each is prepared. */
export async function prepare([text, pair], ways) {
  const tensors = {};
  for (const { inputs, folder, longest } of ways) {
    const tokenizer = await tokenizerIn(folder);
    const found = tokenizer.encode(text, { text_pair: pair ?? null, return_token_type_ids: true });
    if (longest !== null && found.ids.length > longest) {
      throw new Error(`This text has ${found.ids.length} tokens, the network takes ${longest}: shorten it.`);
    }
    const values = { input_ids: found.ids, attention_mask: found.attention_mask, token_type_ids: found.token_type_ids };
    for (const name of inputs) {
      const data = BigInt64Array.from(values[name.split("/").at(-1)], BigInt);
      tensors[name] = { type: "int64", data, dims: [1, data.length] };
    }
  }
  return tensors;
}

/** Call `give` with the typed texts whenever the form is submitted. */
export function listen(panel, give) {
  panel.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    give([...panel.querySelectorAll("textarea")].map((area) => area.value));
  });
}

// Turns a picture file into the tensors that a network takes.
import { normalise, resize } from "./resize.js";

/** Decode a file: upright, on white where it is transparent, without its colour profile. */
async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { width, height, data: rgba } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { width, height, data };
}

/** Return the tensors of a file by name, as {type, data, dims}. `ways`: how each is prepared. */
export async function prepare(file, ways) {
  const pixels = await pixelsOf(file).catch((error) => {
    throw new Error(`The browser cannot read this picture (${error.message}).`);
  });
  return Object.fromEntries(ways.map((way) => {
    const { width, height, data } = resize(pixels, way);
    const values = normalise({ data }, way.scale, way.shift);
    return [way.inputs[0], { type: "float32", data: values, dims: [1, 3, height, width] }];
  }));
}

/** Call `give` with every file that is dropped, chosen or pasted. */
export function listen(panel, give) {
  const choose = panel.querySelector("input"), preview = panel.querySelector("img");
  const show = (file) => {
    if (!file) return;
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(file);
    preview.alt = file.name;
    preview.hidden = false;
    give(file);
  };
  choose.addEventListener("change", () => show(choose.files[0]));
  document.addEventListener("paste", (event) => show(event.clipboardData.files[0]));
  document.addEventListener("dragover", (event) => { event.preventDefault(); panel.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) panel.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    panel.classList.remove("over");
    show(event.dataTransfer.files[0]);
  });
}

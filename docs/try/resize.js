// Pillow's bilinear filter, which averages where it shrinks, bit for bit: in whole numbers.

const BITS = 22;  // of the weights behind the point: weights of bytes add up to less than 2^31

/** The weight of each input that one of `to` outputs is made of: output i begins at input `first[i]`, and has `counts[i]`
 *  weights from `values[i * most]` on. */
function weigh(from, to) {
  const scale = from / to, reach = Math.max(scale, 1), most = 2 * Math.ceil(reach) + 1;
  const first = new Int32Array(to), counts = new Int32Array(to), values = new Int32Array(to * most);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    first[i] = Math.max(0, Math.trunc(centre - reach + 0.5));
    counts[i] = Math.min(from, Math.trunc(centre + reach + 0.5)) - first[i];
    const shares = [];
    let sum = 0;
    for (let j = 0; j < counts[i]; j++) {
      shares.push(Math.max(0, 1 - Math.abs((j + first[i] - centre + 0.5) * (1 / reach))));
      sum += shares[j];
    }
    shares.forEach((share, j) => { values[i * most + j] = Math.trunc(0.5 + share / sum * (1 << BITS)); });
  }
  return { first, counts, values, most };
}

/** Filter lines of RGB along one direction. In `source` lines are `line` apart, and the pixels of each `step`; in `target`,
 *  from `at` on, `toLine` and `toStep`. */
function filter(source, { lines, line, step }, { first, counts, values, most }, target, { at = 0, toLine, toStep }) {
  const half = 1 << (BITS - 1);
  for (let l = 0; l < lines; l++) {
    for (let i = 0; i < first.length; i++) {
      let red = half, green = half, blue = half;
      for (let j = 0, from = l * line + first[i] * step; j < counts[i]; j++, from += step) {
        const weight = values[i * most + j];
        red += source[from] * weight;
        green += source[from + 1] * weight;
        blue += source[from + 2] * weight;
      }
      const to = at + l * toLine + i * toStep;
      target[to] = red >> BITS;
      target[to + 1] = green >> BITS;
      target[to + 2] = blue >> BITS;
    }
  }
}

/** Stretch a picture to side x side.
 *
 *  @param read gives a part of the picture, (left, top, columns, rows) to RGBA bytes; it is never needed as a whole.
 *  @returns RGB bytes, (side, side, 3).
 */
export function resize(read, width, height, side) {
  const across = weigh(width, side), down = weigh(height, side), out = new Uint8Array(side * side * 3);
  // Pillow 13 begins with the direction in which it saves more; each pass rounds, so the order can be seen.
  const tall = height > side && height - side > 2 * (width - side);
  const between = new Uint8Array(side * 3 * (tall ? width : height));
  const together = Math.max(1, Math.floor(4_000_000 / (tall ? height : width)));
  if (tall) {
    for (let left = 0; left < width; left += together) {
      const lines = Math.min(together, width - left);
      filter(read(left, 0, lines, height), { lines, line: 4, step: 4 * lines }, down, between, { at: 3 * left, toLine: 3, toStep: 3 * width });
    }
    filter(between, { lines: side, line: 3 * width, step: 3 }, across, out, { toLine: 3 * side, toStep: 3 });
  } else {
    for (let top = 0; top < height; top += together) {
      const lines = Math.min(together, height - top);
      filter(read(0, top, width, lines), { lines, line: 4 * width, step: 4 }, across, between, { at: 3 * side * top, toLine: 3 * side, toStep: 3 });
    }
    filter(between, { lines: side, line: 3, step: 3 * side }, down, out, { toLine: 3, toStep: 3 * side });
  }
  return out;
}

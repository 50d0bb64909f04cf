// The lines by which two texts differ, with a few equal ones around them.

/** @typedef {{kind: "same" | "gone" | "come" | "gap", text: string}} Line */

const AROUND = 2; // equal lines before and after a change
const LARGEST = 2_000; // lines; the comparison takes the product of both numbers

/** @param {string} before @param {string} after @returns {Line[]} */
export function difference(before, after) {
  const old = before.split("\n");
  const current = after.split("\n");
  if (old.length > LARGEST || current.length > LARGEST) {
    return [...old.map((text) => line("gone", text)), ...current.map((text) => line("come", text))];
  }
  const longest = commonLengths(old, current);
  /** @type {Line[]} */
  const lines = [];
  for (let i = 0, j = 0; i < old.length || j < current.length; ) {
    if (i < old.length && j < current.length && old[i] === current[j]) {
      lines.push(line("same", old[i]));
      i += 1;
      j += 1;
    } else if (j >= current.length || (i < old.length && longest[i + 1][j] >= longest[i][j + 1])) {
      lines.push(line("gone", old[i]));
      i += 1;
    } else {
      lines.push(line("come", current[j]));
      j += 1;
    }
  }
  return shortened(lines);
}

/** @param {Line["kind"]} kind @param {string} text @returns {Line} */
const line = (kind, text) => ({ kind, text });

/** The lengths of the longest common parts of what follows each pair of lines. @param {string[]} old @param {string[]} current */
function commonLengths(old, current) {
  const lengths = Array.from({ length: old.length + 1 }, () => new Uint16Array(current.length + 1));
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = current.length - 1; j >= 0; j -= 1) {
      lengths[i][j] = old[i] === current[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}

/** Without the equal lines that are far from every change. @param {Line[]} lines @returns {Line[]} */
function shortened(lines) {
  const near = lines.map((_, i) => lines.slice(Math.max(0, i - AROUND), i + AROUND + 1).some((one) => one.kind !== "same"));
  return lines.flatMap((one, i) => (near[i] ? [one] : i > 0 && !near[i - 1] ? [] : [line("gap", "…")]));
}

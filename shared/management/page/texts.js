// The page's words in the viewer's language.
import { language } from "./preferences.js";
import { en } from "./texts/en.js";
import { zhTW } from "./texts/zh-TW.js";

/** @typedef {keyof typeof en} Key */

/**
 * A text, with its places filled. Every value is text for the browser, never markup.
 * @param {Key} key @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const texts = language().startsWith("zh") ? zhTW : en;
  return (texts[key] ?? en[key]).replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** The text of a name that the gateway gives; the name itself if there is none. @param {string} kind @param {string} name */
export function word(kind, name) {
  const key = `${kind}.${name.replaceAll(" ", "_")}`;
  return key in en ? t(/** @type {Key} */ (key)) : name.replaceAll("_", " ");
}

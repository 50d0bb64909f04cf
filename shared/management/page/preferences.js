// What a viewer prefers. No credential is ever kept here.

/** @param {string} name @param {string} otherwise */
const read = (name, otherwise) => {
  try {
    return localStorage.getItem(`tollgate.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
};

/** @param {string} name @param {string} value */
export function prefer(name, value) {
  try {
    localStorage.setItem(`tollgate.${name}`, value);
  } catch {
    // Private windows keep nothing: the choice lasts until the page is loaded again.
  }
  window.dispatchEvent(new Event("tollgate:preferred"));
}

export const language = () => read("language", navigator.language.toLowerCase().startsWith("zh") ? "zh-TW" : navigator.language);
export const utc = () => read("zone", "local") === "utc";
export const theme = () => read("theme", "system");

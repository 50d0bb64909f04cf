// The rules of the page's modules.
module.exports = [
  {
    files: ["**/*.js"],
    ignores: ["**/vendor/**", "**/eslint.config.js"],
    languageOptions: {
      ecmaVersion: 2023,
      sourceType: "module",
      globals: Object.fromEntries(
        [
          "AbortController", "Element", "Event", "HTMLAnchorElement", "Intl", "ResizeObserver", "TextDecoder", "URL", "URLSearchParams",
          "clearInterval", "clearTimeout", "document", "fetch", "getComputedStyle", "localStorage", "navigator", "performance",
          "sessionStorage", "setInterval", "setTimeout", "window",
        ].map((name) => [name, "readonly"]),
      ),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-undef": "error",
      "no-unused-vars": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-new-func": "error",
      "no-var": "error",
      "prefer-const": "error",
      eqeqeq: ["error", "always", { null: "ignore" }],
      "max-lines": ["error", 300],
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "Values are escaped by construction: use html``." },
        { property: "outerHTML", message: "Values are escaped by construction: use html``." },
        { property: "insertAdjacentHTML", message: "Values are escaped by construction: use html``." },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "[name='dangerouslySetInnerHTML']", message: "Values are escaped by construction." },
      ],
    },
  },
  { files: ["**/texts/*.js"], rules: { "max-lines": "off" } }, // a language is one file
];

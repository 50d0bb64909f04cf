// Starts the page.
import { html, render } from "./lib.js";
import { App } from "./app.js";

const root = document.getElementById("root");
if (root) render(html`<${App} />`, root);

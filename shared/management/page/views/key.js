// A key that is shown once, with calls that are ready to be pasted.
import { html, useState } from "../lib.js";
import { Copy } from "../parts/form.js";
import { t } from "../texts.js";

/** @param {{text: string, model?: string}} props */
export function ShownKey({ text, model }) {
  const [form, setForm] = useState("curl");
  const call = calls(text, model ?? "MODEL")[form];
  return html`<p>${t("key.text")}</p>
    <p class="secret"><code>${text}</code> <${Copy} text=${text} /></p>
    <div role="tablist" aria-label=${t("key.calls")}>${Object.keys(calls("", "")).map((name) => html`<button type="button" role="tab"
      aria-selected=${name === form} onClick=${() => setForm(name)}>${name}</button>`)}</div>
    <pre role="tabpanel" tabindex="0">${call}</pre><${Copy} text=${call} label=${t("copy.call")} />`;
}

/** @param {string} key @param {string} model @returns {Record<string, string>} */
function calls(key, model) {
  const { origin } = window.location;
  const say = `model="${model}", messages=[{"role": "user", "content": "Hello"}]`;
  return {
    curl: `curl ${origin}/v1/chat/completions \\\n  --header "Authorization: Bearer ${key}" --header "content-type: application/json" \\\n  --data '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
    OpenAI: `from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key="${key}")\nprint(client.chat.completions.create(${say}).choices[0].message.content)`,
    AzureOpenAI: `from openai import AzureOpenAI\n\nclient = AzureOpenAI(azure_endpoint="${origin}", api_key="${key}", api_version="2024-10-21")\nprint(client.chat.completions.create(${say}).choices[0].message.content)`,
  };
}

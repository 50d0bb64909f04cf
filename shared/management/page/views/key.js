// A key that is shown once, with calls that are ready to be pasted.
import { useAnswer } from "../api.js";
import { html, useState } from "../lib.js";
import { Copy } from "../parts/form.js";
import { t } from "../texts.js";

/** A model that answers a chat. @param {string} name */
const chats = (name) => /^(gpt-\d|o\d)/.test(name) && !/audio|image|realtime|transcribe|tts/.test(name);

/** @param {{text: string, model?: string, models?: string}} props `model`: of the calls, else one of those at the path `models` */
export function ShownKey({ text, model: given, models = "/gateway/models" }) {
  const names = useAnswer(given ? null : models).data?.models.map((/** @type {any} */ one) => one.model) ?? [];
  const model = given ?? names.find(chats) ?? names[0];
  return html`<p>${t("key.text")}</p>
    <p class="secret"><code>${text}</code> <${Copy} text=${text} /></p><${Calls} text=${text} model=${model} />`;
}

/** Ready calls, with a key or with tokens of Entra ID. @param {{text?: string, model?: string}} props `text`: the key */
export function Calls({ text, model }) {
  const [form, setForm] = useState("curl");
  const all = text === undefined ? withTokens(model ?? "MODEL") : withKey(text, model ?? "MODEL");
  return html`<div role="tablist" aria-label=${t("key.calls")}>${Object.keys(all).map((name) => html`<button type="button" role="tab"
      aria-selected=${name === form} onClick=${() => setForm(name)}>${name}</button>`)}</div>
    <pre role="tabpanel" tabindex="0">${all[form]}</pre><${Copy} key=${form} text=${all[form]} label=${t("copy.call")} />`;
}

/** @param {string} model */
const said = (model) => `print(client.chat.completions.create(model="${model}", messages=[{"role": "user", "content": "Hello"}]).choices[0].message.content)`;

/** @param {string} bearer @param {string} model */
const curl = (bearer, model) => `curl ${window.location.origin}/v1/chat/completions \\\n  --header "Authorization: Bearer ${bearer}" --header "content-type: application/json" \\\n  --data '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`;

/** @param {string} key @param {string} model @returns {Record<string, string>} */
function withKey(key, model) {
  const { origin } = window.location;
  return {
    curl: curl(key, model),
    OpenAI: `from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key="${key}")\n${said(model)}`,
    AzureOpenAI: `from openai import AzureOpenAI\n\nclient = AzureOpenAI(azure_endpoint="${origin}", api_key="${key}", api_version="2024-10-21")\n${said(model)}`,
  };
}

const PROVIDER = `from azure.identity import DefaultAzureCredential, get_bearer_token_provider\nfrom openai import `;
const TOKENS = `provider = get_bearer_token_provider(DefaultAzureCredential(), "api://tollgate/.default")`;

/** @param {string} model @returns {Record<string, string>} */
function withTokens(model) {
  const { origin } = window.location;
  return {
    curl: curl("$(az account get-access-token --resource api://tollgate --query accessToken --output tsv)", model),
    OpenAI: `${PROVIDER}OpenAI\n\n${TOKENS}\nclient = OpenAI(base_url="${origin}/v1", api_key=provider)\n${said(model)}`,
    AzureOpenAI: `${PROVIDER}AzureOpenAI\n\n${TOKENS}\nclient = AzureOpenAI(azure_endpoint="${origin}", azure_ad_token_provider=provider, api_version="2024-10-21")\n${said(model)}`,
  };
}

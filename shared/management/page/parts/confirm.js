// A question before what one click should not do: it says what happens, and the same words do it.
import { html } from "../lib.js";
import { t } from "../texts.js";
import { Dialog, useAttempt } from "./form.js";
import { Problem } from "./status.js";

const STILL_NEEDED = 409;

/**
 * @typedef {{title: string, text: string, act: string, work: () => Promise<void>, anyway?: {text: any, act: string, work: () => Promise<void>}}} Question
 * `anyway`: offered in place of `work` if something still needs what is to go
 * @param {Question & {onClose: () => void}} props
 */
export function Confirm({ title, text, act, work, anyway, onClose }) {
  const { error, busy, attempt } = useAttempt();
  const needed = anyway && error?.status === STILL_NEEDED ? anyway : null;
  const begin = () => attempt(async () => {
    await (needed ?? { work }).work();
    onClose();
  });
  return html`<${Dialog} title=${title} onClose=${onClose}>
    ${needed ? html`<p class="problem" role="alert">${needed.text}</p>` : html`<p>${text}</p><${Problem} error=${error} />`}
    <form method="dialog" class="bar"><button type="button" class="main" disabled=${busy} onClick=${begin}>${(needed ?? { act }).act}</button>
      <button autofocus>${t("cancel")}</button></form><//>`;
}

// The credential of the session for the next request: a token of Entra ID is renewed before it ends.
import { fresh, isOld, isOver, SignInError } from "./entra.js";
import { session } from "./session.js";

/** @type {Promise<void> | null} */
let renewing = null;

/** "" if nobody is signed in. Throws `SignInError` if the session ends over it. @returns {Promise<string>} */
export async function credential() {
  const held = session.get()?.tokens;
  if (held && isOld(held)) {
    renewing ??= renew(held).finally(() => (renewing = null));
    await renewing;
    if (!session.get()) throw new SignInError(session.reason());
  }
  return session.get()?.credential ?? "";
}

/** @param {import("./session.js").Tokens} held */
async function renew(held) {
  try {
    const settings = await (await fetch("/gateway/sign-in", { cache: "no-store" })).json();
    const next = await fresh(settings.entra, held);
    session.replace(next.access, next);
  } catch (error) {
    const final = error instanceof SignInError && error.final;
    if (final || isOver(held)) session.end(error instanceof SignInError ? error.message : "");
  }
}

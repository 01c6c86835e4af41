// Requests to our own server, as the user who is signed in.

// A refusal in the server's own words; `status` is that of HTTP.
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(method, path) {
  const csrf = document.cookie.match(/(?:^|; )csrftoken=([^;]*)/)?.[1] ?? "";
  const answer = await fetch(path, { method, headers: { Accept: "application/json", "X-CSRFToken": csrf } });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, body.detail ?? `The server answered ${answer.status}.`);
  return body;
}

// Keeps this export for when there is no connection. Online the server's files are used and nothing here answers. Offline
// the page asks for its files in a folder of this version's name, which only this version's cache answers: files of two
// exports never meet. The export puts VERSION and FILES (name: SHA-256) in front of this text.

const MINE = `mobiler2l ${registration.scope} `; // other folders of the same server have caches of their own
const CACHE = MINE + VERSION;
const FOLDER = `${registration.scope}kept-${VERSION}/`;
const PAGES = ["", "index.html"].map((name) => registration.scope + name);
const PATIENCE = 5000; // milliseconds; a server that has not answered by then counts as away

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A response without an address, so that it belongs where it is asked for: a script's imports follow from its address.
function answer(body, headers) {
  const own = new Headers(headers);
  for (const name of ["content-length", "content-encoding"]) own.delete(name);
  return new Response(body, { headers: own });
}

// A file as it was exported. The browser may still hold one of another export; the server may be in the middle of a copy.
async function exported(name) {
  for (const cache of ["default", "reload"]) {
    const response = await fetch(name, { cache }), bytes = await response.arrayBuffer();
    if (await sha256(bytes) === FILES[name]) return answer(bytes, response.headers);
  }
  throw new Error(`${name} is not this export's`);
}

async function keepAll() {
  try {
    const cache = await caches.open(CACHE);
    await Promise.all(Object.keys(FILES).map(async (name) => cache.put(FOLDER + name, await exported(name))));
  } catch (error) {
    await caches.delete(CACHE);
    throw error;
  }
}

async function deleteOlder() {
  const older = (await caches.keys()).filter((name) => name.startsWith(MINE) && name !== CACHE);
  await Promise.all(older.map((name) => caches.delete(name)));
}

const kept = (url) => caches.match(url, { ignoreVary: true });

// The server's page; where there is none, the one kept, with its files in their folder.
async function page(request) {
  const fresh = fetch(request);
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE));
  const response = await Promise.race([fresh, late]).catch(() => null);
  if (response && response.status < 500) return response;
  const index = await kept(`${FOLDER}index.html`);
  if (!index) return fresh;
  return answer((await index.text()).replace("<head>", `<head>\n<base href="${FOLDER}">`), index.headers);
}

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(keepAll());
});

addEventListener("activate", (event) => event.waitUntil(deleteOlder()));

addEventListener("fetch", (event) => {
  const { request } = event, [url] = request.url.split(/[?#]/);
  if (request.mode === "navigate" && PAGES.includes(url)) {
    event.respondWith(page(request));
  } else if (url.startsWith(FOLDER)) {
    event.respondWith(kept(url).then((response) => response ?? Response.error()));
  }
});

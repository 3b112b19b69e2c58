// Works offline once loaded: the newest file where the server answers, else the one kept from last time.

const CACHE = "mobiler2l";
const FILES = [
  "./", "page.css", "page.js", "model.js", "camera.js", "gestures.js", "tryon.js", "webgpu.js", "network.wgsl", "wasm.js",
  "worker.js", "encoding.js", "kernels.wasm", "kernels-fma.wasm", "manifest.json", "network.json", "weights.bin",
];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  const kept = () => caches.match(event.request, { ignoreSearch: true });
  const fresh = fetch(event.request).then(async (response) => {
    if (!response.ok) return response;
    const cache = await caches.open(CACHE);
    await cache.put(new URL(event.request.url).pathname, response.clone());
    return response;
  });
  event.respondWith(fresh.catch(async (error) => (await kept()) ?? Promise.reject(error)));
});

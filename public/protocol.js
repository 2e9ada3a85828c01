// Says how this page came here, which only the browser knows.
const names = { h3: "HTTP/3, over QUIC", h2: "HTTP/2, over TCP", "http/1.1": "HTTP/1.1, over TCP" };
const [page] = performance.getEntriesByType("navigation");
if (page && names[page.nextHopProtocol]) {
  const took = Math.round(page.responseStart - page.fetchStart);
  document.getElementById("protocol").textContent =
    `This page came to you by ${names[page.nextHopProtocol]}; its first byte was here after ${took} ms.`;
}

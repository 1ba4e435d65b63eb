import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// Three pages with hashed assets, nothing inline and nothing from elsewhere, as the server's CSP demands.
export default defineConfig({
  plugins: [svelte()],
  appType: "mpa",
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { index: "index.html", visitor: "visitor.html", agent: "agent.html" } },
  },
});

// A ringdeskd for the browser test: own data folder, own ports, killed and started again at will.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";

/** How long a start may take before it counts as failed. */
const READY_MS = 30_000;

function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

export class Server {
  static async make(binary) {
    const server = new Server();
    server.binary = binary;
    server.data = mkdtempSync(join(tmpdir(), "ringdesk-browser-"));
    [server.http, server.ws, server.tcp] = [await freePort(), await freePort(), await freePort()];
    return server;
  }

  get origin() {
    return `http://127.0.0.1:${this.http}`;
  }

  /** Starts it and waits for the line with `ready`. */
  start() {
    const args = ["--data", this.data, "--http", `127.0.0.1:${this.http}`];
    args.push("--listen-ws", `127.0.0.1:${this.ws}`, "--listen-binary", `127.0.0.1:${this.tcp}`);
    const child = spawn(this.binary, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.child = child;
    const said = [];
    createInterface({ input: child.stderr }).on("line", (line) => said.push(line));
    return new Promise((resolve, reject) => {
      const late = setTimeout(
        () => reject(new Error(`ringdeskd was not ready in ${READY_MS} ms:\n${said.join("\n")}`)),
        READY_MS,
      );
      child.once("error", (error) => reject(new Error(`${this.binary} does not start: ${error.message}`)));
      child.once("exit", (code, signal) =>
        reject(new Error(`ringdeskd ended (${code ?? signal}):\n${said.join("\n")}`)),
      );
      createInterface({ input: child.stdout }).on("line", (line) => {
        if (!/\bready\b/.test(line)) return;
        clearTimeout(late);
        resolve(line);
      });
    });
  }

  /** kill -9, and waits until the process is gone. */
  kill() {
    const { child } = this;
    return new Promise((resolve) => {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return resolve();
      child.removeAllListeners("exit");
      child.once("exit", resolve);
      child.kill("SIGKILL");
    });
  }

  /** Passwords of the demo agents, by login. */
  passwords() {
    const lines = readFileSync(join(this.data, "demo-passwords.txt"), "utf8").trim().split("\n");
    return Object.fromEntries(lines.map((line) => line.split(" ")));
  }

  async remove() {
    await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

/** Serves the pages of a folder in place of the binary's, under the binary's own content policy. */
export async function serveFrom(context, origin, dist) {
  const policy = (await fetch(`${origin}/visitor`)).headers.get("content-security-policy") ?? "";
  await context.route(`${origin}/**`, (route) => {
    const { pathname } = new URL(route.request().url());
    if (pathname.startsWith("/v1/")) return route.continue();
    const name = pathname === "/" ? "/index.html" : extname(pathname) === "" ? `${pathname}.html` : pathname;
    const headers = { "content-security-policy": policy, "content-type": TYPES[extname(name)] ?? "text/plain" };
    return route.fulfill({ body: readFileSync(join(dist, name)), headers });
  });
}

import "../pages.css";
import "./console.css";

import { mount } from "svelte";

import App from "./App.svelte";

const target = document.querySelector("#console");
if (target === null) throw new Error("the page has no #console element");
mount(App, { target });

import "../pages.css";
import "../landing/page.css";

import { translatePage } from "../landing/words";
import { RingdeskChat } from "./chat";

translatePage();
document.querySelector("#start")?.addEventListener("click", () => {
  document.querySelector<RingdeskChat>("ringdesk-chat")?.toggle(true);
});

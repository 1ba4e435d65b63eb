import "../pages.css";
import "./page.css";

import { translatePage } from "./words";

translatePage();

// Every sentence the pages show, in English and Chinese. A missing word does not compile.

export type Language = "en" | "zh";

const en = {
  language: "Language",
  online: "Connected",
  connecting: "Connecting…",
  waiting: "Connection lost. Reconnecting…",
  refused: "Not connected",
  chat: "Chat with us",
  openChat: "Open the chat",
  closeChat: "Close the chat",
  unread: (n: number): string => (n === 1 ? "1 unread message" : `${n} unread messages`),
  greeting: "How can we help?",
  greetingMore: "Write to us at any time. If nobody is online, your message is kept and answered later.",
  write: "Write a message",
  send: "Send",
  isTyping: (who: string) => `${who} is typing`,
  someone: "The team",
  you: "You",
  visitor: "Visitor",
  visitorNamed: (digits: string) => `Visitor ${digits}`,
  loadingOlder: "Loading earlier messages…",
  showMore: "Show more",
  showLess: "Show less",
  loadOlder: "Earlier messages",
  gap: "Some earlier messages are no longer available.",
  today: "Today",
  yesterday: "Yesterday",
  mark: { sending: "Sending", sent: "Sent", delivered: "Delivered", read: "Read", failed: "Not sent" },
  notSent: "Not sent",
  editAgain: "Edit again",
  tooMuch: "Too many unsent messages. Wait for the connection to come back.",
  tooLong: "This message is too long.",
  failed: {
    stale_owner: "This conversation is no longer yours.",
    resolved: "This conversation has ended.",
    too_large: "The message is too long.",
    not_found: "This conversation no longer exists.",
    device_limit: "This conversation was used on too many devices.",
  } as Record<string, string>,
  failedOther: "The server did not take this message.",
  visitorQueued: "Message kept. An agent will answer.",
  visitorReopened: "Welcome back. An agent will answer.",
  visitorAssigned: (who: string) => `${who} joined the conversation`,
  visitorLost: "The agent left. The next one goes on here.",
  visitorResolved: "Conversation ended. Write again any time.",
  visitorStatus: {
    open: "We are here to help",
    queued: "Waiting for an agent",
    assigned: "",
    resolved: "Ended",
  },
  talkingTo: (who: string) => `You are talking to ${who}`,
  agentQueued: "Waiting in the queue",
  agentReopened: "The visitor came back",
  agentAssigned: (who: string) => `${who} took the conversation`,
  agentLost: (who: string): string => (who === "" ? "Back in the queue" : `${who} left; back in the queue`),
  agentResolved: (byVisitor: boolean): string => (byVisitor ? "Ended by the visitor" : "Resolved"),
  console: "Agent console",
  login: "Log in",
  site: "Site",
  account: "Login",
  password: "Password",
  loginHelp:
    "The first start prints the passwords of the demo agents and keeps them in demo-passwords.txt of the data folder.",
  loginWrong: "Site, login or password is wrong.",
  loginBusy: (wait: string): string =>
    wait === "" ? "Too many attempts. Try again after a moment." : `Too many attempts. Try again in ${wait}.`,
  loginUnreachable: "The server does not answer. Try again.",
  loginEnded: "Your login has ended. Log in again.",
  logout: "Log out",
  presence: { online: "Online", away: "Away", offline: "Offline" },
  availability: "Availability",
  capacity: "At once",
  capacityLabel: "Conversations at once",
  mine: "My conversations",
  mineEmpty: "No conversations yet. They come by themselves while you are online.",
  mineOffline: "You are not online: no new conversations come to you.",
  others: "With others",
  waitingAgain: "Waiting again",
  ended: "Ended",
  queue: "Queue",
  queueEmpty: "Nobody is waiting.",
  queueMore: (n: number) => `and ${n} more`,
  waitsSince: (text: string) => `for ${text}`,
  resolve: "Resolve",
  dismiss: "Remove from the list",
  back: "Back to the list",
  pick: "Pick a conversation",
  pickMore: "Visitors in the queue are given to the agent with the most room.",
  statusName: { open: "Open", queued: "Waiting", assigned: "Yours", resolved: "Ended" },
  assignedTo: (who: string) => `With ${who}`,
  agentEnded: "This conversation has ended. If the visitor writes again, it goes to the queue.",
  readOnly: "This conversation is not yours now.",
  keys: "Enter sends, Shift+Enter starts a new line. Alt+↑ and Alt+↓ change the conversation.",
  noMessages: "No messages yet",
  landingTitle: "Ringdesk is running",
  landingText: "A visitor and an agent can talk right now. Open both pages, side by side or on two devices.",
  landingVisitor: "Visitor page",
  landingVisitorText: "A shop page with the chat in its corner.",
  landingAgent: "Agent console",
  landingAgentText: "Log in as ana or bo and answer.",
  landingStatus: "Status",
  shopTitle: "Northwind Tea",
  shopText: "A small shop that does not exist. Its chat does: press the button, or the bubble in the corner.",
  shopOne: "Mountain oolong",
  shopTwo: "Jasmine pearls",
  shopThree: "Smoked black",
  shopNote: "100 g, loose leaf",
};

export type Words = typeof en;

const zh: Words = {
  language: "语言",
  online: "已连接",
  connecting: "正在连接…",
  waiting: "连接已断开，正在重新连接…",
  refused: "未连接",
  chat: "在线咨询",
  openChat: "打开聊天",
  closeChat: "关闭聊天",
  unread: (n) => `${n} 条未读消息`,
  greeting: "有什么可以帮您？",
  greetingMore: "随时可以留言。如果暂时没有客服在线，消息会保留，稍后回复您。",
  write: "输入消息",
  send: "发送",
  isTyping: (who) => `${who}正在输入`,
  someone: "客服",
  you: "我",
  visitor: "访客",
  visitorNamed: (digits) => `访客 ${digits}`,
  loadingOlder: "正在加载更早的消息…",
  showMore: "展开",
  showLess: "收起",
  loadOlder: "更早的消息",
  gap: "部分较早的消息已不可用。",
  today: "今天",
  yesterday: "昨天",
  mark: { sending: "发送中", sent: "已发送", delivered: "已送达", read: "已读", failed: "未发送" },
  notSent: "未发送",
  editAgain: "重新编辑",
  tooMuch: "未发送的消息过多，请等待连接恢复。",
  tooLong: "消息过长。",
  failed: {
    stale_owner: "该会话已不归您处理。",
    resolved: "该会话已经结束。",
    too_large: "消息过长。",
    not_found: "该会话已不存在。",
    device_limit: "该会话使用过的设备过多。",
  },
  failedOther: "服务器没有接受这条消息。",
  visitorQueued: "消息已保留，客服会尽快回复。",
  visitorReopened: "欢迎回来，客服会尽快回复。",
  visitorAssigned: (who) => `${who} 加入了会话`,
  visitorLost: "客服已离开，下一位客服会继续接待。",
  visitorResolved: "会话已结束。需要时可以再次留言。",
  visitorStatus: { open: "很高兴为您服务", queued: "等待客服接入", assigned: "", resolved: "已结束" },
  talkingTo: (who) => `正在与 ${who} 交谈`,
  agentQueued: "排队等待中",
  agentReopened: "访客再次留言",
  agentAssigned: (who) => `${who} 接入了会话`,
  agentLost: (who) => (who === "" ? "已回到队列" : `${who} 离开，会话回到队列`),
  agentResolved: (byVisitor) => (byVisitor ? "访客结束了会话" : "已解决"),
  console: "客服工作台",
  login: "登录",
  site: "站点",
  account: "账号",
  password: "密码",
  loginHelp: "首次启动时会打印演示客服的密码，并保存在数据目录的 demo-passwords.txt 中。",
  loginWrong: "站点、账号或密码不正确。",
  loginBusy: (wait) => (wait === "" ? "尝试次数过多，请稍后再试。" : `尝试次数过多，请在 ${wait}后重试。`),
  loginUnreachable: "服务器没有响应，请重试。",
  loginEnded: "登录已失效，请重新登录。",
  logout: "退出",
  presence: { online: "在线", away: "暂离", offline: "离线" },
  availability: "接待状态",
  capacity: "同时接待",
  capacityLabel: "同时接待的会话数",
  mine: "我的会话",
  mineEmpty: "暂无会话。在线时会自动分配给您。",
  mineOffline: "您不在线，不会分配新的会话。",
  others: "由他人接待",
  waitingAgain: "重新排队",
  ended: "已结束",
  queue: "队列",
  queueEmpty: "没有访客在等待。",
  queueMore: (n) => `另有 ${n} 位`,
  waitsSince: (text) => `已等待 ${text}`,
  resolve: "结束会话",
  dismiss: "从列表中移除",
  back: "返回列表",
  pick: "请选择一个会话",
  pickMore: "排队的访客会分配给最空闲的客服。",
  statusName: { open: "新会话", queued: "等待中", assigned: "接待中", resolved: "已结束" },
  assignedTo: (who) => `由 ${who} 接待`,
  agentEnded: "会话已结束。访客再次留言时会重新排队。",
  readOnly: "该会话目前不归您处理。",
  keys: "Enter 发送，Shift+Enter 换行。Alt+↑ 和 Alt+↓ 切换会话。",
  noMessages: "暂无消息",
  landingTitle: "Ringdesk 正在运行",
  landingText: "访客和客服现在就可以对话。请同时打开两个页面，也可以使用两台设备。",
  landingVisitor: "访客页面",
  landingVisitorText: "右下角带有聊天窗口的商店页面。",
  landingAgent: "客服工作台",
  landingAgentText: "使用 ana 或 bo 登录并回复访客。",
  landingStatus: "运行状态",
  shopTitle: "北风茶舍",
  shopText: "一家并不存在的小店，但聊天是真的：点击按钮，或右下角的气泡。",
  shopOne: "高山乌龙",
  shopTwo: "茉莉龙珠",
  shopThree: "正山小种",
  shopNote: "100 克，散茶",
};

const WORDS: Record<Language, Words> = { en, zh };
const KEY = "ringdesk.language";

/** The language chosen earlier, else the browser's: Chinese of any kind, otherwise English. */
export function preferredLanguage(): Language {
  let chosen: string | null = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // No storage: the browser's language it is.
  }
  if (chosen === "en" || chosen === "zh") return chosen;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export function chooseLanguage(language: Language): void {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  try {
    localStorage.setItem(KEY, language);
  } catch {
    // Chosen for this page only.
  }
}

export function wordsOf(language: Language): Words {
  return WORDS[language];
}

/** The other language, for the switch, in its own name. */
export function otherLanguage(language: Language): { language: Language; name: string } {
  return language === "en" ? { language: "zh", name: "中文" } : { language: "en", name: "English" };
}

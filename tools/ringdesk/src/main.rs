//! ringdesk: the operator's command line.
//!
//! Two halves: requests to the control plane of a running server ([`remote`]), and reading the logs of a stopped one
//! ([`logs`], [`events`]). Exit codes: 0 done, 1 refused by the server, 2 wrong usage, 3 the server cannot be reached,
//! 4 the data folder cannot be read, 5 a log is damaged.

mod events;
mod logs;
mod remote;
mod upgrade;

use std::fmt;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use crate::remote::{DATA_DEFAULT, Remote};

/// Why a command ended early: an exit code and one sentence.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    sentence: String,
}

impl Failure {
    /// The server refused.
    pub const REFUSED: u8 = 1;
    /// Wrong usage.
    pub const USAGE: u8 = 2;
    /// The server cannot be reached.
    pub const UNREACHABLE: u8 = 3;
    /// The data folder cannot be read.
    pub const FOLDER: u8 = 4;
    /// A log is damaged.
    pub const DAMAGED: u8 = 5;

    /// A failure.
    pub fn new(code: u8, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sentence)
    }
}

/// Steers a ringdeskd and reads its logs.
#[derive(Parser)]
#[command(name = "ringdesk", version)]
struct Args {
    /// Data folder of the server [default: ./data, or the folder that the running server names]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Control plane [default: what the running server noted in DIR/LOCK, or 127.0.0.1:7800]
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    http: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What the server does now
    Status {
        /// The whole answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read the config file again
    Reload,
    /// Say goodbye to all clients and stop
    Drain,
    /// Replace the running server by its program file, which may be newer, without disconnecting clients
    Upgrade,
    /// Close the sessions of an agent or a visitor and refuse their tickets
    Revoke {
        #[arg(long)]
        site: String,
        /// Login
        #[arg(long, conflicts_with = "visitor", required_unless_present = "visitor")]
        agent: Option<String>,
        /// External visitor id
        #[arg(long)]
        visitor: Option<String>,
    },
    /// Agents of a site
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Sites
    #[command(subcommand)]
    Site(SiteCommand),
    /// Make a ticket and print it
    #[command(subcommand)]
    Ticket(TicketCommand),
    /// Read the logs of a stopped server
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Subcommand)]
enum AgentCommand {
    /// Add an agent; prints its password if one is made
    Add {
        #[arg(long)]
        site: String,
        login: String,
        /// What visitors see [default: the login]
        #[arg(long)]
        name: Option<String>,
        /// Read the password from the first line of standard input instead of making one
        #[arg(long)]
        password_stdin: bool,
    },
    /// List agents
    List {
        #[arg(long)]
        site: String,
    },
    /// Set a password and end the agent's sessions; prints the password if one is made
    Passwd {
        #[arg(long)]
        site: String,
        login: String,
        /// Read the password from the first line of standard input instead of making one
        #[arg(long)]
        password_stdin: bool,
    },
}

#[derive(Subcommand)]
enum SiteCommand {
    /// Add a site
    Add { site: String },
    /// List sites
    List,
    /// Public keys with which a site's own system signs its visitors' tickets
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Add an Ed25519 public key: PEM, hex or base64 from FILE or standard input; prints its `kid`
    Add {
        #[arg(long)]
        site: String,
        file: Option<PathBuf>,
    },
    /// List the keys in force
    List {
        #[arg(long)]
        site: String,
    },
    /// Take a key out of force: its tickets open no connection any more
    Remove {
        #[arg(long)]
        site: String,
        number: u32,
    },
}

#[derive(Subcommand)]
enum TicketCommand {
    /// For a gateway of this name
    Gateway {
        #[arg(long)]
        site: String,
        name: String,
        #[arg(long, value_name = "SECONDS")]
        lifetime_s: Option<u64>,
    },
    /// For a visitor of this external id, or a random one
    Visitor {
        #[arg(long)]
        site: String,
        name: Option<String>,
        #[arg(long, value_name = "SECONDS")]
        lifetime_s: Option<u64>,
    },
    /// For the agent of this login
    Agent {
        #[arg(long)]
        site: String,
        login: String,
        #[arg(long, value_name = "SECONDS")]
        lifetime_s: Option<u64>,
    },
}

#[derive(Subcommand)]
enum LogCommand {
    /// Check every log; exit code 5 if one is damaged
    Verify,
    /// Print every event as a line of JSON
    Dump,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match carry_out(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("ringdesk: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Writes a line; a reader that went away (`| head`) is a reason to stop, not to complain.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).is_err() {
        std::process::exit(0);
    }
}

fn password_from_stdin(wanted: bool) -> Result<Option<String>, Failure> {
    if !wanted {
        return Ok(None);
    }
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::new(Failure::USAGE, format!("standard input cannot be read: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::new(Failure::USAGE, "standard input holds no password"));
    }
    Ok(Some(password.to_string()))
}

fn carry_out(args: &Args) -> Result<(), Failure> {
    let remote = || Remote::new(args.data.as_deref(), args.http.as_deref());
    let folder = || args.data.clone().unwrap_or_else(|| PathBuf::from(DATA_DEFAULT));
    match &args.command {
        Command::Status { json } => status(&remote().get("/v1/status")?, *json),
        Command::Reload => reload(&remote().admin("/v1/admin/reload", &json!({}))?)?,
        Command::Drain => {
            remote().admin("/v1/admin/drain", &json!({}))?;
            print("the server says goodbye to its clients and stops");
        }
        Command::Upgrade => upgrade::run(&remote())?,
        Command::Revoke { site, agent, visitor } => {
            let body = json!({ "site": site, "agent": agent, "visitor": visitor });
            remote().admin("/v1/admin/revoke", &body)?;
            print("revoked");
        }
        Command::Agent(command) => agent(&remote(), command)?,
        Command::Site(SiteCommand::Add { site }) => {
            let added = remote().admin("/v1/admin/sites", &json!({ "site": site }))?;
            print(&format!("site {site} has number {}", added["id"]));
        }
        Command::Site(SiteCommand::List) => {
            let list = remote().admin_get("/v1/admin/sites")?;
            for site in list["sites"].as_array().into_iter().flatten() {
                print(&format!("{}\t{}", site["id"], text(&site["site"])));
            }
        }
        Command::Site(SiteCommand::Key(command)) => key(&remote(), command)?,
        Command::Ticket(command) => ticket(&remote(), command)?,
        Command::Log(LogCommand::Verify) => logs::verify(&folder())?,
        Command::Log(LogCommand::Dump) => logs::dump(&folder())?,
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn status(answer: &Value, json: bool) {
    if json {
        print(&answer.to_string());
        return;
    }
    print(&format!(
        "ringdeskd {}, {}, {}",
        text(&answer["version"]),
        text(&answer["state"]),
        text(&answer["backend"])
    ));
    let lines = [
        ("uptime", format!("{} s", answer["uptime_s"])),
        ("memory", format!("{} MiB", answer["resident_bytes"].as_u64().unwrap_or(0) >> 20)),
        ("binary", text(&answer["listen"]["binary"]).to_string()),
        ("websocket", text(&answer["listen"]["websocket"]).to_string()),
        ("connections", answer["connections"].to_string()),
        ("conversations", answer["conversations"].to_string()),
        ("waiting", answer["queues"]["waiting"].to_string()),
        ("messages", format!("{} since the start", answer["messages"])),
        ("log", format!("{} bytes since the start", answer["log_bytes"])),
    ];
    for (name, value) in lines {
        print(&format!("{name:<14} {value}"));
    }
    for shard in answer["shards"].as_array().into_iter().flatten() {
        print(&format!(
            "shard {:<8} {} slots, {} connections, {} conversations, {} messages, {} busy",
            shard["shard"],
            shard["slots"],
            shard["connections"],
            shard["conversations"],
            shard["messages"],
            shard["busy"]
        ));
    }
}

fn reload(answer: &Value) -> Result<(), Failure> {
    let changed: Vec<&str> = answer["changed"].as_array().into_iter().flatten().map(text).collect();
    print(&match changed.as_slice() {
        [] => "nothing changed".to_string(),
        keys => format!("changed: {}", keys.join(", ")),
    });
    let refused: Vec<&str> =
        answer["refused"].as_array().into_iter().flatten().map(|key| text(&key["sentence"])).collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(Failure::REFUSED, refused.join("\nringdesk: ")))
    }
}

fn agent(remote: &Remote, command: &AgentCommand) -> Result<(), Failure> {
    let (answer, login) = match command {
        AgentCommand::List { site } => {
            let list = remote.admin_get(&format!("/v1/admin/agents?site={site}"))?;
            for agent in list["agents"].as_array().into_iter().flatten() {
                let mark = if agent["has_password"] == json!(true) { "" } else { "\t(no password)" };
                print(&format!(
                    "{}\t{}\t{}{mark}",
                    agent["agent"],
                    text(&agent["login"]),
                    text(&agent["name"])
                ));
            }
            return Ok(());
        }
        AgentCommand::Add { site, login, name, password_stdin } => {
            let password = password_from_stdin(*password_stdin)?;
            let body = json!({ "site": site, "login": login, "name": name, "password": password });
            (remote.admin("/v1/admin/agents", &body)?, login)
        }
        AgentCommand::Passwd { site, login, password_stdin } => {
            let password = password_from_stdin(*password_stdin)?;
            let body = json!({ "site": site, "login": login, "password": password });
            (remote.admin("/v1/admin/agents/password", &body)?, login)
        }
    };
    match answer["password"].as_str() {
        Some(made) => print(&format!("{login} {made}")),
        None => print(login),
    }
    Ok(())
}

fn key(remote: &Remote, command: &KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Add { site, file } => {
            let read = match file {
                Some(file) => std::fs::read_to_string(file),
                None => io::read_to_string(io::stdin()),
            };
            let key = read
                .map_err(|error| Failure::new(Failure::USAGE, format!("the key cannot be read: {error}")))?;
            let added = remote.admin("/v1/admin/sites/keys", &json!({ "site": site, "key": key }))?;
            print(text(&added["kid"]));
        }
        KeyCommand::List { site } => {
            let list = remote.admin_get(&format!("/v1/admin/sites/keys?site={site}"))?;
            for key in list["keys"].as_array().into_iter().flatten() {
                print(&format!("{}\t{}\t{}", key["number"], text(&key["kid"]), text(&key["key"])));
            }
        }
        KeyCommand::Remove { site, number } => {
            let body = json!({ "site": site, "number": number });
            remote.admin("/v1/admin/sites/keys/remove", &body)?;
            print("removed");
        }
    }
    Ok(())
}

fn ticket(remote: &Remote, command: &TicketCommand) -> Result<(), Failure> {
    let (role, site, name, lifetime_s) = match command {
        TicketCommand::Gateway { site, name, lifetime_s } => ("gateway", site, Some(name), lifetime_s),
        TicketCommand::Visitor { site, name, lifetime_s } => ("visitor", site, name.as_ref(), lifetime_s),
        TicketCommand::Agent { site, login, lifetime_s } => ("agent", site, Some(login), lifetime_s),
    };
    let body = json!({ "site": site, "name": name, "lifetime_s": lifetime_s });
    let answer = remote.admin(&format!("/v1/admin/tickets/{role}"), &body)?;
    print(text(&answer["ticket"]));
    Ok(())
}

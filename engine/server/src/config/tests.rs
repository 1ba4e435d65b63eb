//! What the config file may say, and what is said of it.

use super::*;

fn load(text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let path = Path::new("ringdesk.toml");
    config.take_file(parse(path, text)?).map_err(|error| placed(error, path, text))?;
    config.check().and_then(|()| config.check_listeners()).map_err(|error| placed(error, path, text))?;
    Ok(config)
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(load("").expect("empty"), Config::default());
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = load("shards = 2\n\n[clients]\nheartbeat_s = 20\nheartbeat = 3\n").unwrap_err().to_string();
    assert!(error.contains("line 5, key `heartbeat`"), "{error}");
    assert!(error.contains("unknown field"), "{error}");
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    let error = load("shards = 2\nlog_level = 7\n").unwrap_err().to_string();
    assert!(error.contains("line 2, key `log_level`"), "{error}");
    let error = load("[listen]\nhttp = \"nowhere\"\n").unwrap_err().to_string();
    assert!(error.contains("line 2, key `http`"), "{error}");
    let error = load("shards = 2\nthis is not toml\n").unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn a_value_outside_its_bounds_is_named_with_its_line() {
    for (text, key) in [
        ("shards = 1025", "shards"),
        ("[clients]\norigins = [\"https://x/\"]", "clients.origins"),
        ("[clients]\norigins = [\"https://a b\"]", "clients.origins"),
        ("[web]\nhosts = [\"a b\"]", "web.hosts"),
        ("[web]\nhosts = [\"desk.example.org:80\"]", "web.hosts"),
        ("# x\nclients.heartbeat_s = 0", "clients.heartbeat_s"),
        ("# x\nclients = { heartbeat_s = 0 }", "clients.heartbeat_s"),
        ("[clients]\nheartbeat_s = 0", "clients.heartbeat_s"),
        ("[clients]\norigins = [\"example.org\"]", "clients.origins"),
        ("[tickets]\nlifetime_s = 1", "tickets.lifetime_s"),
        ("[web]\nwebsocket_url = \"http://x\"", "web.websocket_url"),
        ("[log]\nsegment_mib = 0", "log.segment_mib"),
        ("[tls]\ncertificate = \"c\"", "tls.key"),
        ("[tls]\nkey = \"k\"", "tls.certificate"),
        ("[listen]\ntls_binary = \"0.0.0.0:1\"", "tls.certificate"),
        ("[listen]\nproxy_protocol = [\"unix\"]", "listen.proxy_protocol"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")), "{text}: {error}");
        // What is missing has no line.
        let stands = text.contains(key.rsplit('.').next().expect("a key has a name"));
        let place = format!("the config file ringdesk.toml, line {}", text.lines().count());
        assert_eq!(error.contains(&place), stands, "{text}: {error}");
    }
    load("[clients]\norigins = [\"*\", \"https://a.example\", \"http://[::1]:80\"]\n").expect("origins");
}

#[test]
fn types_are_told_in_plain_words() {
    let error = load("shards = \"two\"\n").unwrap_err().to_string();
    assert!(error.contains("line 1, key `shards`"), "{error}");
    assert!(error.contains("a whole number from 0 to 65535"), "{error}");
    let error = load("[listen]\nhttp = \"nowhere\"\n").unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:7800"), "{error}");
}

#[test]
fn a_value_of_the_command_line_is_not_blamed_on_the_file() {
    let overrides = Overrides { shards: Some(5_000), ..Overrides::default() };
    let error = Config::load(&overrides).unwrap_err().to_string();
    assert!(error.contains("`shards` is 5000") && !error.contains("line"), "{error}");
}

#[test]
fn every_segment_length_makes_a_log() {
    for mib in [SEGMENT_MIB_MIN, 64, 1024] {
        let segment_bytes = u32::try_from(mib << 20).expect("fits");
        let geometry = ringdesk_persist::Geometry::new(ringdesk_persist::LogId(0));
        for align in [512, 4096] {
            let geometry = ringdesk_persist::Geometry { segment_bytes, align, ..geometry };
            geometry.check().unwrap_or_else(|error| panic!("{mib} MiB: {error:?}"));
        }
    }
}

#[test]
fn a_reload_takes_live_keys_and_refuses_fixed_ones() {
    let mut config = Config::default();
    let next = load("shards = 7\n[clients]\nheartbeat_s = 9\norigins = [\"*\"]\n").expect("good");
    let done = config.reload(next);
    assert_eq!(done.changed, ["clients.heartbeat_s", "clients.origins"]);
    assert_eq!(done.refused.len(), 1);
    assert_eq!(done.refused[0].0, "shards");
    assert!(done.refused[0].1.contains("stays 0"), "{}", done.refused[0].1);
    assert_eq!(config.fixed.shards, 0, "the old value stays");
    assert_eq!(config.live.heartbeat_s, 9);
}

#[test]
fn the_command_line_wins_over_the_file() {
    let dir = std::env::temp_dir().join(format!("ringdesk-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("folder");
    let file = dir.join("ringdesk.toml");
    std::fs::write(&file, "shards = 3\ndata = \"/from/file\"\n").expect("file");
    let overrides = Overrides { file: Some(file), shards: Some(5), ..Overrides::default() };
    let config = Config::load(&overrides).expect("good");
    assert_eq!(config.fixed.shards, 5);
    assert_eq!(config.fixed.data, PathBuf::from("/from/file"));
    let missing = Overrides { file: Some(dir.join("none.toml")), ..Overrides::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("none.toml"));
    std::fs::remove_dir_all(&dir).expect("clean");
}

#[test]
fn the_command_line_may_give_a_proxied_socket_its_path() {
    let file = std::env::temp_dir().join(format!("ringdesk-proxied-{}.toml", std::process::id()));
    std::fs::write(&file, "[listen]\nproxy_protocol = [\"unix\"]\n").expect("file");
    let mut overrides = Overrides { file: Some(file.clone()), ..Overrides::default() };
    let error = Config::load(&overrides).unwrap_err().to_string();
    assert!(error.contains("`listen.unix` has no address") && error.contains("line 2"), "{error}");
    overrides.listen_unix = Some(PathBuf::from("/run/socket"));
    assert_eq!(Config::load(&overrides).expect("good").fixed.proxy_protocol, [ListenerName::Unix]);
    std::fs::remove_file(&file).expect("clean");
}

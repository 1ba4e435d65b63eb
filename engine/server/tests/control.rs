//! The control plane over a real loopback connection, with a real directory. The mailboxes end in queues that the test
//! reads; the shards themselves are tested in their own crates and in `boot.rs`.

mod plant;

use plant::{Answer, Plant};
use ringdesk_shard::io::Control;
use ringdesk_shard::ticket;
use serde_json::json;

#[test]
fn health_is_always_and_readiness_only_while_serving() {
    let plant = Plant::start("ready");
    assert_eq!(plant.get("/healthz").status, 200);
    let before = plant.get("/readyz");
    assert_eq!((before.status, before.text("code")), (503, "NOT_READY".to_string()));
    plant.serve();
    assert_eq!(plant.get("/readyz").status, 200);
    plant.plane.set_draining();
    assert_eq!(plant.get("/readyz").status, 503);
}

#[test]
fn an_anonymous_visitor_stays_the_same() {
    let plant = Plant::start("visitor");
    let first = plant.post("/v1/tickets/visitor", &json!({ "site": "demo" }));
    assert_eq!(first.status, 200, "{}", first.body);
    let visitor = first.text("visitor");
    assert!(visitor.starts_with("v-") && visitor.len() == 16, "{visitor}");
    assert_eq!(first.text("ws"), "ws://127.0.0.1:7802/ws");
    let claims = ticket::decode(plant.plane.ticket_key(), &first.text("ticket")).expect("genuine");
    assert_eq!((claims.sub.as_str(), claims.sid, claims.role.as_str()), (visitor.as_str(), 1, "visitor"));

    let again = plant.post("/v1/tickets/visitor", &json!({ "site": "demo", "ticket": first.text("ticket") }));
    assert_eq!(again.text("visitor"), visitor);
    let forged = format!("{}x", first.text("ticket"));
    let other = plant.post("/v1/tickets/visitor", &json!({ "site": "demo", "ticket": forged }));
    assert_eq!(other.status, 200);
    assert_ne!(other.text("visitor"), visitor, "a forged ticket names nobody");
    assert_eq!(plant.post("/v1/tickets/visitor", &json!({ "site": "none" })).text("code"), "NOT_FOUND");
}

#[test]
fn an_expired_ticket_still_names_its_visitor_for_a_year() {
    let plant = Plant::start("expired");
    let key = plant.plane.ticket_key();
    let now = ringdesk_server::control::plane::now_s();
    for (age_s, same) in [(3_600, true), (364 * 86_400, true), (367 * 86_400, false)] {
        let claims = ticket::Claims {
            iss: ticket::ISSUER.into(),
            site: "demo".into(),
            sid: 1,
            role: "visitor".into(),
            sub: "v-old".into(),
            aid: 0,
            iat: now - age_s - 10,
            exp: now - age_s,
        };
        let old = ticket::issue(key, &claims).expect("signed");
        let answer = plant.post("/v1/tickets/visitor", &json!({ "site": "demo", "ticket": old }));
        assert_eq!(answer.text("visitor") == "v-old", same, "{age_s} s old: {}", answer.body);
        let agent = ticket::Claims { role: "agent".into(), aid: 1, ..claims };
        let wrong = ticket::issue(key, &agent).expect("signed");
        let answer = plant.post("/v1/tickets/visitor", &json!({ "site": "demo", "ticket": wrong }));
        assert_ne!(answer.text("visitor"), "v-old", "an agent's ticket names no visitor");
    }
}

#[test]
fn agents_log_in_with_the_seeded_password_and_all_else_answers_the_same() {
    let plant = Plant::start("login");
    let good = plant
        .post("/v1/login", &json!({ "site": "demo", "login": "ana", "password": plant.password("ana") }));
    assert_eq!(good.status, 200, "{}", good.body);
    assert_eq!((good.text("name"), good.body["agent"].as_u64()), ("Ana".to_string(), Some(1)));
    let claims = ticket::decode(plant.plane.ticket_key(), &good.text("ticket")).expect("genuine");
    assert_eq!((claims.sub.as_str(), claims.aid, claims.role.as_str()), ("ana", 1, "agent"));

    let mut answers = Vec::new();
    for (site, login, password) in
        [("demo", "ana", "wrong"), ("demo", "zoe", "wrong"), ("none", "ana", "wrong")]
    {
        let body = json!({ "site": site, "login": login, "password": password });
        let Answer { status, body } = plant.post("/v1/login", &body);
        assert_eq!(status, 401);
        answers.push(body);
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    assert!(answers[0]["sentence_zh"].as_str().is_some_and(|zh| !zh.is_ascii()));
}

#[test]
fn guessing_a_password_is_slowed_down() {
    let plant = Plant::start("guess");
    let body = json!({ "site": "demo", "login": "bo", "password": "guess" });
    let statuses: Vec<u16> = (0..7).map(|_| plant.post("/v1/login", &body).status).collect();
    assert_eq!(statuses[..5], [401; 5]);
    assert_eq!(statuses[5..], [429; 2]);
}

#[test]
fn foreign_hosts_origins_and_bodies_are_refused() {
    let plant = Plant::start("hosts");
    let refused = plant.raw("GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert!(refused.contains("BAD_ORIGIN"), "{refused}");
    let host = plant.address;
    let body = r#"{"site":"demo"}"#;
    let post = |extra: &str, kind: &str| {
        plant.raw(&format!(
            "POST /v1/tickets/visitor HTTP/1.1\r\nHost: {host}\r\n{extra}Content-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
    };
    let foreign = post("Origin: https://evil.example\r\n", "application/json");
    assert!(foreign.starts_with("HTTP/1.1 403") && foreign.contains("Pages of another origin"), "{foreign}");
    assert!(post("", "text/plain").starts_with("HTTP/1.1 415"));
    assert!(post(&format!("Origin: http://{host}\r\n"), "application/json").starts_with("HTTP/1.1 200"));
    let wrong = plant.post("/v1/tickets/visitor", &json!({ "site": 7 }));
    assert_eq!((wrong.status, wrong.text("code")), (400, "BAD_JSON".to_string()));
    let unknown = plant.post("/v1/tickets/visitor", &json!({ "site": "demo", "extra": 1 }));
    assert!(unknown.text("sentence").contains("extra"), "{}", unknown.body);
    assert_eq!(plant.get("/v1/nothing").status, 404);
}

#[test]
fn only_callers_of_this_machine_learn_the_data_folder() {
    let plant = Plant::start("folder");
    let told = plant.get("/v1/status");
    let folder = std::path::PathBuf::from(told.text("data"));
    assert!(folder.is_absolute() && folder.join("directory.redb").exists(), "{}", told.body);
    for header in ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7"] {
        let host = plant.address;
        let answer = plant.raw(&format!(
            "GET /v1/status HTTP/1.1\r\nHost: {host}\r\n{header}\r\nConnection: close\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"data\":null"), "{answer}");
    }
}

#[test]
fn a_site_key_is_in_force_until_it_is_removed() {
    let plant = Plant::start("keys");
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let add = json!({ "site": "demo", "key": key });
    assert_eq!(plant.post("/v1/admin/sites/keys", &add).status, 401);
    let added = plant.admin("/v1/admin/sites/keys", &add);
    assert_eq!((added.status, added.text("kid").as_str()), (201, "demo:1"), "{}", added.body);
    assert_eq!(plant.admin("/v1/admin/sites/keys", &add).status, 409);
    assert_eq!(plant.admin("/v1/admin/sites/keys", &json!({ "site": "demo", "key": "no key" })).status, 400);
    let list = plant.admin_get("/v1/admin/sites/keys?site=demo");
    assert_eq!(list.body["keys"][0]["key"], key, "{}", list.body);
    let remove = json!({ "site": "demo", "number": 1 });
    assert_eq!(plant.admin("/v1/admin/sites/keys/remove", &remove).status, 200);
    assert_eq!(plant.admin("/v1/admin/sites/keys/remove", &remove).status, 404);
    assert_eq!(plant.admin_get("/v1/admin/sites/keys?site=demo").body["keys"], json!([]));
}

#[test]
fn tickets_for_many_visitors_come_at_once() {
    let plant = Plant::start("many");
    let many = plant.admin("/v1/admin/tickets/visitor", &json!({ "site": "demo", "count": 300 }));
    assert_eq!(many.status, 200, "{}", many.body);
    let tickets = many.body["tickets"].as_array().expect("a list");
    let mut visitors: Vec<String> = tickets
        .iter()
        .map(|token| {
            ticket::decode(plant.plane.ticket_key(), token.as_str().expect("text")).expect("genuine").sub
        })
        .collect();
    visitors.sort_unstable();
    visitors.dedup();
    assert_eq!(visitors.len(), 300, "each is another visitor");
    for bad in [json!({ "site": "demo", "count": 0 }), json!({ "site": "demo", "count": 2, "name": "v-1" })] {
        assert_eq!(plant.admin("/v1/admin/tickets/visitor", &bad).status, 400);
    }
}

#[test]
fn admin_routes_need_the_token() {
    let plant = Plant::start("admin");
    assert_eq!(plant.post("/v1/admin/sites", &json!({ "site": "shop" })).status, 401);
    let added = plant.admin("/v1/admin/sites", &json!({ "site": "shop" }));
    assert_eq!((added.status, added.body["id"].as_u64()), (201, Some(2)), "{}", added.body);
    assert_eq!(plant.admin("/v1/admin/sites", &json!({ "site": "shop" })).status, 409);
    let agent = plant.admin("/v1/admin/agents", &json!({ "site": "shop", "login": "eve", "name": "Eve" }));
    assert_eq!(agent.status, 201, "{}", agent.body);
    let password = agent.text("password");
    let login = json!({ "site": "shop", "login": "eve", "password": password });
    assert_eq!(plant.post("/v1/login", &login).status, 200);
    let short =
        plant.admin("/v1/admin/agents", &json!({ "site": "shop", "login": "al", "password": "short" }));
    assert_eq!(short.status, 400);
    let list = plant.admin_get("/v1/admin/agents?site=shop");
    assert_eq!(list.body["agents"].as_array().map(Vec::len), Some(1), "{}", list.body);
    assert!(!list.body.to_string().contains("argon2"), "hashes stay inside");

    let gateway = plant.admin("/v1/admin/tickets/gateway", &json!({ "site": "shop", "name": "front-1" }));
    let claims = ticket::decode(plant.plane.ticket_key(), &gateway.text("ticket")).expect("genuine");
    assert_eq!((claims.role.as_str(), claims.sid, claims.aid), ("gateway", 2, 0));
    assert_eq!(plant.admin("/v1/admin/tickets/king", &json!({ "site": "shop" })).status, 404);
}

#[test]
fn shards_hear_of_new_agents_and_revocations() {
    let plant = Plant::start("revoke");
    plant.serve();
    plant.admin("/v1/admin/agents", &json!({ "site": "demo", "login": "eve", "name": "Eve" }));
    match plant.mailbox.pop() {
        Some(Control::Settings(settings)) => {
            assert_eq!(settings.agent_names.get(&(1, 3)).map(|name| &**name), Some("Eve"));
        }
        other => panic!("settings expected, not {other:?}"),
    }
    let first = plant.post("/v1/tickets/visitor", &json!({ "site": "demo" }));
    let visitor = first.text("visitor");
    let revoked = plant.admin("/v1/admin/revoke", &json!({ "site": "demo", "visitor": visitor }));
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    match plant.mailbox.pop() {
        Some(Control::Revoke { site: 1, agent: 0, visitor: named, .. }) => assert_eq!(named, visitor),
        other => panic!("a revocation expected, not {other:?}"),
    }
    let again = plant.post("/v1/tickets/visitor", &json!({ "site": "demo", "ticket": first.text("ticket") }));
    assert_ne!(again.text("visitor"), visitor, "a revoked ticket names nobody");

    let password = plant.password("bo");
    plant.post("/v1/login", &json!({ "site": "demo", "login": "bo", "password": password }));
    let set = plant.admin("/v1/admin/agents/password", &json!({ "site": "demo", "login": "bo" }));
    assert_eq!(set.status, 200, "{}", set.body);
    assert!(matches!(plant.mailbox.pop(), Some(Control::Revoke { agent: 2, .. })));
    let fresh =
        plant.post("/v1/login", &json!({ "site": "demo", "login": "bo", "password": set.text("password") }));
    let claims = ticket::decode(plant.plane.ticket_key(), &fresh.text("ticket")).expect("genuine");
    let before = plant.plane.directory_now().revoked_before(1, 2, "").expect("read");
    assert!(claims.iat >= before, "the login after a revocation holds");
}

#[test]
fn a_reload_changes_what_it_may_and_refuses_the_rest() {
    let plant = Plant::start("reload");
    plant.serve();
    plant.write_config("shards = 9\n[clients]\nheartbeat_s = 7\n");
    let done = plant.admin("/v1/admin/reload", &json!({}));
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(done.body["changed"], json!(["clients.heartbeat_s"]));
    assert_eq!(done.body["refused"][0]["key"], "shards");
    assert!(matches!(plant.mailbox.pop(), Some(Control::Settings(settings)) if settings.heartbeat_s == 7));
    plant.write_config("[clients]\nheartbeat_s = 8\nheart = 1\n");
    let wrong = plant.admin("/v1/admin/reload", &json!({}));
    assert_eq!((wrong.status, wrong.text("code")), (400, "CONFIG".to_string()));
    assert!(wrong.text("sentence").contains("line 3, key `heart`"), "{}", wrong.body);
    assert_eq!(plant.plane.config().live.heartbeat_s, 7, "everything stays");
}

#[test]
fn status_metrics_and_pages_answer() {
    let plant = Plant::start("figures");
    let status = plant.get("/v1/status");
    assert_eq!(
        (status.text("state"), status.body["shards_running"].as_u64()),
        ("starting".to_string(), Some(0))
    );
    plant.serve();
    let metrics =
        plant.raw(&format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", plant.address));
    assert!(metrics.contains("ringdesk_serving 1"), "{metrics}");
    for path in ["/", "/visitor", "/agent"] {
        let page = plant.raw(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        let lower = page.to_ascii_lowercase();
        assert!(lower.contains("content-security-policy: default-src 'none'"), "{page}");
        assert!(lower.contains("connect-src 'self' ws://localhost:7802 wss://localhost:7802"), "{page}");
    }
}

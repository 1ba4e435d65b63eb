//! What is written is read, and nothing else is.

use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-zé汉]{0,12}".prop_map(Arc::from)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn listen() -> impl Strategy<Value = Listen> {
    let flow = prop_oneof![Just((false, false)), Just((true, false)), Just((false, true))];
    (any::<u64>(), any::<u32>(), flow).prop_map(|(conversation, after, (from_tail, live))| {
        let conversation = ConversationId(conversation);
        Listen { conversation, after, from_tail, live }
    })
}

fn session() -> impl Strategy<Value = Session> {
    let listens = prop::collection::vec(listen(), 0..4);
    (name(), any::<u64>(), any::<u32>(), listens).prop_map(|(name, device, agent, listens)| {
        let device = DeviceId(device);
        Session { name, device, agent, listens }
    })
}

fn ready() -> impl Strategy<Value = Ready> {
    let own = prop::option::of(session()).prop_map(|own| own.map(|own| (0, own)).into_iter().collect());
    let bound =
        prop::collection::btree_map(1u32.., session(), 0..4).prop_map(|all| all.into_iter().collect());
    let sessions: BoxedStrategy<(bool, Vec<(u32, Session)>)> =
        prop_oneof![own.prop_map(|own| (false, own)), bound.prop_map(|bound| (true, bound))].boxed();
    (any::<u32>(), name(), any::<u32>(), any::<u32>(), sessions).prop_map(
        |(site, site_name, issued_s, log_epoch, (gateway, sessions))| {
            let site = SiteId(site);
            Ready { site, site_name, issued_s, log_epoch, gateway, sessions }
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let identity = prop_oneof![
        name().prop_map(|visitor| Identity::Visitor { visitor }),
        (any::<u32>(), name()).prop_map(|(agent, login)| Identity::Agent { agent: AgentId(agent), login }),
        Just(Identity::Gateway),
    ];
    let principal = (any::<u32>(), name(), identity, any::<u64>(), any::<u64>()).prop_map(
        |(site, site_name, identity, expires_s, issued_s)| {
            let site = SiteId(site);
            Principal { site, site_name, identity, expires_s, issued_s }
        },
    );
    let cursors = prop::collection::vec(any::<(u64, u32, u64)>(), 0..4);
    (principal, any::<u64>(), any::<u32>(), cursors, bytes()).prop_map(
        |(principal, device, tag, cursors, frames)| {
            let device = DeviceId(device);
            Hello { principal, device, tag, cursors, frames }
        },
    )
}

fn stage() -> impl Strategy<Value = Stage> {
    let kind = any::<(bool, bool, bool)>().prop_map(|(websocket, tls, proxied)| {
        let speaks = if websocket { Speaks::WebSocket } else { Speaks::Binary };
        ListenerKind { speaks, tls, proxied }
    });
    prop_oneof![
        1 => kind.prop_map(Stage::Proxy),
        1 => any::<bool>().prop_map(|upgraded| Stage::Greeting { upgraded }),
        1 => hello().prop_map(|hello| Stage::Hello(Box::new(hello))),
        4 => ready().prop_map(|ready| Stage::Ready(Box::new(ready))),
        1 => Just(Stage::Closing),
    ]
}

fn any_carried() -> impl Strategy<Value = Carried> {
    let transport = prop_oneof![Just(Transport::Stream), Just(Transport::WsBinary), Just(Transport::WsJson)];
    let deflate = prop_oneof![Just(None), (8u8..=15).prop_map(Deflate::of_window)];
    let address = prop_oneof![
        Just(None),
        any::<[u8; 4]>().prop_map(|v4| Some(IpAddr::from(v4))),
        any::<[u8; 16]>().prop_map(|v6| Some(IpAddr::from(v6))),
    ];
    (transport, deflate, address, any::<u32>(), bytes(), bytes(), stage()).prop_map(
        |(transport, deflate, address, silent_s, unsent, undecoded, stage)| Carried {
            transport,
            deflate,
            address,
            silent_s,
            unsent,
            undecoded,
            stage,
        },
    )
}

fn encoded(carried: &Carried) -> Vec<u8> {
    let mut bytes = Vec::new();
    carried.encode(&mut bytes);
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read(carried in any_carried()) {
        let bytes = encoded(&carried);
        prop_assert_eq!(Carried::decode(&bytes), Ok(carried));
    }

    /// Whatever is read is written as the bytes that were read; a cut or a longer one is refused.
    #[test]
    fn other_bytes_are_refused_or_mean_themselves(
        carried in any_carried(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encoded(&carried);
        prop_assert!(Carried::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let longer = [&bytes[..], &[byte]].concat();
        prop_assert_eq!(Carried::decode(&longer), Err(CarryError::Long));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Carried::decode(&bytes) {
            prop_assert_eq!(encoded(&read), bytes);
        }
    }

    #[test]
    fn any_bytes_are_an_error_at_worst(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let version = [&[VERSION], &bytes[..]].concat();
        for bytes in [bytes, version] {
            if let Ok(read) = Carried::decode(&bytes) {
                prop_assert_eq!(encoded(&read), bytes);
            }
        }
    }
}

fn visitor() -> Carried {
    let listen = Listen {
        conversation: ConversationId(0x0102_0304_0506_0708),
        after: 9,
        from_tail: false,
        live: true,
    };
    let session = Session { name: "v".into(), device: DeviceId(7), agent: 0, listens: vec![listen] };
    Carried {
        transport: Transport::WsJson,
        deflate: Deflate::of_window(15),
        address: Some(IpAddr::from([192, 0, 2, 1])),
        silent_s: 3,
        unsent: b"un".to_vec(),
        undecoded: b"d".to_vec(),
        stage: Stage::Ready(Box::new(Ready {
            site: SiteId(1),
            site_name: "demo".into(),
            issued_s: 5,
            log_epoch: 1,
            gateway: false,
            sessions: vec![(0, session)],
        })),
    }
}

/// The form of version 1: two processes of different builds meet in it.
#[test]
fn the_bytes_are_pinned() {
    let expected: &[&[u8]] = &[
        &[1, 2, 15, 4, 192, 0, 2, 1, 3, 0, 0, 0],
        &[2, 0, 0, 0, b'u', b'n', 1, 0, 0, 0, b'd', 3],
        &[1, 0, 0, 0, 4, 0, 0, 0, b'd', b'e', b'm', b'o', 5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0],
        &[0, 0, 0, 0, 1, 0, 0, 0, b'v', 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        &[8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 2],
    ];
    assert_eq!(encoded(&visitor()), expected.concat());
}

#[test]
fn another_version_is_named() {
    let mut bytes = encoded(&visitor());
    bytes[0] = 9;
    assert_eq!(Carried::decode(&bytes), Err(CarryError::Version(9)));
    assert_eq!(Carried::decode(&[]), Err(CarryError::Short));
}

/// A count that the bytes cannot hold is refused before room is made for it.
#[test]
fn a_count_beyond_the_bytes_is_refused() {
    let mut bytes = encoded(&visitor());
    let sessions = bytes.len() - 13 - 25 - 4;
    bytes[sessions..sessions + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Carried::decode(&bytes), Err(CarryError::Field("sessions")));
    let mut bytes = encoded(&visitor());
    let listens = bytes.len() - 13 - 4;
    bytes[listens..listens + 4].copy_from_slice(&4_096u32.to_le_bytes());
    assert_eq!(Carried::decode(&bytes), Err(CarryError::Short));
}

#[test]
fn a_connection_goes_home_to_the_slot_of_its_identity() {
    let mut carried = visitor();
    assert_eq!(carried.home(), Some(identity_slot("demo", "v")));
    if let Stage::Ready(ready) = &mut carried.stage {
        ready.gateway = true;
    }
    assert_eq!(carried.home(), None);
    assert_eq!(Carried { stage: Stage::Greeting { upgraded: true }, ..carried }.home(), None);
}

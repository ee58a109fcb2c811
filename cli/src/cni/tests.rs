//! The protocol without a daemon: environment, configuration, results.

use super::config::Config;
use super::result::Outcome;
use super::*;

fn call(env: &[(&str, &str)], input: &str) -> std::result::Result<Value, (u64, String)> {
    let var = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned());
    let mut version = Version::LATEST;
    match answer(&var, input.as_bytes(), &mut version) {
        Ok(answer) => Ok(answer.json.unwrap_or_default()),
        Err(failure) => {
            let json = failure.json(version);
            assert!(json["cniVersion"].is_string() && !failure.msg.contains('\n'), "{json}");
            let all =
                format!("{}; {}", json["msg"].as_str().unwrap(), json["details"].as_str().unwrap_or(""));
            Err((json["code"].as_u64().unwrap(), all))
        }
    }
}

const ADD: [(&str, &str); 5] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/none-such"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/nowhere"),
];

fn with<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = ADD.iter().filter(|(k, _)| !changes.iter().any(|(c, _)| c == k));
    kept.chain(changes).copied().filter(|(_, v)| !v.is_empty()).collect()
}

const CONFIG: &str = r#"{"cniVersion":"1.1.0","name":"n","type":"trunkline","runDir":"/nowhere"}"#;

#[test]
fn the_environment_is_checked_by_name() {
    for (changes, says) in [
        (&[("CNI_COMMAND", "")][..], "CNI_COMMAND is not set"),
        (&[("CNI_COMMAND", "FROB")], "CNI_COMMAND 'FROB' is not known"),
        (&[("CNI_CONTAINERID", ""), ("CNI_NETNS", "")], "ADD needs CNI_CONTAINERID, CNI_NETNS, which"),
        (&[("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "")], "DEL needs CNI_IFNAME"),
        (&[("CNI_COMMAND", "CHECK"), ("CNI_NETNS", "")], "CHECK needs CNI_NETNS"),
        (&[("CNI_CONTAINERID", "../x")], "CNI_CONTAINERID '../x'"),
        (&[("CNI_CONTAINERID", "-x")], "CNI_CONTAINERID '-x'"),
        (&[("CNI_IFNAME", "a/b")], "CNI_IFNAME 'a/b'"),
        (&[("CNI_IFNAME", "..")], "CNI_IFNAME '..'"),
        (&[("CNI_IFNAME", "sixteen-letters-")], "CNI_IFNAME"),
        (&[("CNI_NETNS", "relative")], "CNI_NETNS 'relative'"),
        (&[("CNI_ARGS", "A=1;B")], "CNI_ARGS has 'B'"),
        (&[], "CNI_NETNS '/run/netns/none-such' does not exist"),
    ] {
        let (code, text) = call(&with(changes), CONFIG).unwrap_err();
        assert!(code == 4 && text.contains(says), "{code} {text}");
    }
    assert_eq!(
        arguments("IgnoreUnknown=1;K8S_POD_NAME=a=b;").unwrap(),
        [("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "a=b".into())]
    );
}

#[test]
fn versions_are_told_and_kept_to() {
    let version = |input: &str| call(&[("CNI_COMMAND", "VERSION")], input).unwrap();
    let all = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(version(""), json!({"cniVersion": "1.1.0", "supportedVersions": all}));
    assert_eq!(version(r#"{"cniVersion":"0.4.0"}"#)["cniVersion"], "0.4.0");
    let of = |version: &str| CONFIG.replace("1.1.0", version);
    for (command, version, says) in [
        ("ADD", "0.2.0", "cniVersion 0.2.0 is not supported; use one of 0.3.0, 0.3.1"),
        ("ADD", "9.0.0", "cniVersion 9.0.0"),
        ("CHECK", "0.3.1", "CHECK came with CNI 0.4.0, and cniVersion is 0.3.1"),
        ("GC", "1.0.0", "GC came with CNI 1.1.0"),
        ("STATUS", "1.0.0", "STATUS came with CNI 1.1.0"),
    ] {
        let (code, text) = call(&with(&[("CNI_COMMAND", command)]), &of(version)).unwrap_err();
        assert!(code == 1 && text.contains(says), "{code} {text}");
    }
    let (code, text) = call(&ADD, r#"{"name":"n","type":"trunkline"}"#).unwrap_err();
    assert!(code == 1 && text.contains("0.1.0"), "{text}");
}

#[test]
fn wrong_configurations_are_refused_by_name() {
    for (input, code, says) in [
        ("{", 6, "is not JSON"),
        (r#"{"cniVersion":1}"#, 6, "cniVersion 1 is no string"),
        (r#"{"cniVersion":"1.0.0"}"#, 7, "'name' is missing"),
        (r#"{"cniVersion":"1.0.0","name":"a/b"}"#, 7, "'name' is 'a/b'"),
        (r#"{"cniVersion":"1.0.0","name":7}"#, 7, "'name' is 7, not a string"),
        (r#"{"cniVersion":"1.0.0","name":"n","ipam":[]}"#, 7, "'ipam' is [], not an object"),
        (r#"{"cniVersion":"1.0.0","name":"n","ipam":{"type":"../sh"}}"#, 7, "'ipam.type' is '../sh'"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","isGatway":true}"#,
            2,
            "unknown key 'isGatway': true; did you mean 'isGateway'?",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","hairpinMode":true}"#,
            2,
            "unknown key 'hairpinMode': true; this plugin has bridge",
        ),
        (r#"{"cniVersion":"1.0.0","name":"n","isGateway":"yes"}"#, 7, "'isGateway': invalid type: string"),
        (r#"{"cniVersion":"1.0.0","name":"n","vlan":4095}"#, 7, "'vlan' is 4095; use 1 to 4094"),
        (r#"{"cniVersion":"1.0.0","name":"n","mtu":68}"#, 7, "'mtu' is 68"),
        (r#"{"cniVersion":"1.0.0","name":"n","publish":"x"}"#, 7, "'publish': unknown variant"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"bandwidth":{}}}"#,
            2,
            "'runtimeConfig.bandwidth' is not supported",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"sctp"}]}}"#,
            2,
            "'runtimeConfig.portMappings[0].protocol' is sctp",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"portMappings":[{"hostPort":0,"containerPort":1}]}}"#,
            7,
            "portMappings[0].hostPort' is 0",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"x"}]}}"#,
            7,
            "portMappings[0].hostIP' is 'x'",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","prevResult":{"ips":[{}]}}"#,
            6,
            "prevResult is malformed at 'ips[0]'",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x"}]}}"#,
            7,
            "a plugin before this one has made the interface eth0",
        ),
    ] {
        let (found, text) = call(&ADD, input).unwrap_err();
        assert!(found == code && text.contains(says), "{input}: {found} {text}");
    }
    // What only DEL sees of such a configuration is enough to remove what may be there: it gets to the daemon,
    // which does not run.
    let input = r#"{"cniVersion":"1.0.0","name":"n","isGatway":true,"runDir":"/nowhere"}"#;
    let (code, text) = call(&with(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]), input).unwrap_err();
    assert!(code == 11 && text.contains("no trunkline daemon answers"), "{code} {text}");
    for (command, code, says) in [
        ("STATUS", 50, "no trunkline daemon answers at /nowhere"),
        ("GC", 7, "GC needs 'cni.dev/valid-attachments'"),
        ("CHECK", 7, "CHECK needs 'prevResult'"),
    ] {
        let (found, text) = call(&with(&[("CNI_COMMAND", command)]), CONFIG).unwrap_err();
        assert!(found == code && text.contains(says), "{command}: {found} {text}");
    }
}

#[test]
fn results_are_written_as_each_version_does() {
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": "/n"}],
        "ips": [{"address": "10.7.0.2/24", "gateway": "10.7.0.1", "interface": 0}, {"address": "fd07::2/64"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.7.0.1", "mtu": 1300}],
        "dns": {"nameservers": ["10.7.0.1"], "search": null}
    });
    let outcome = Outcome::read(&result, "it").unwrap();
    let mut same = result.clone();
    same["dns"] = json!({"nameservers": ["10.7.0.1"]});
    assert_eq!(outcome.write(Version::V1_1_0), same);
    let old = outcome.write(Version::V1_0_0);
    assert!(old["interfaces"][0].get("mtu").is_none() && old["routes"][0].get("mtu").is_none(), "{old}");
    assert!(old["ips"][0].get("version").is_none());
    let older = outcome.write(Version::V0_4_0);
    assert_eq!((&older["ips"][0]["version"], &older["ips"][1]["version"]), (&json!("4"), &json!("6")));
    assert_eq!(Outcome::read(&older, "it").unwrap().ips, outcome.ips);
}

#[test]
fn mac_addresses_come_from_three_places() {
    let config = |json: Value| Config::read(&json).unwrap();
    let args = [("MAC".to_owned(), "02:00:00:00:00:03".to_owned())];
    let all = json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}, "x": 1}});
    assert_eq!(config(all).mac(&args).unwrap(), "02:00:00:00:00:01");
    let some = json!({"args": {"cni": {"mac": "02:00:00:00:00:02"}}});
    assert_eq!(config(some).mac(&args).unwrap(), "02:00:00:00:00:02");
    assert_eq!(config(json!({})).mac(&args).unwrap(), "02:00:00:00:00:03");
    assert_eq!(config(json!({"gateway": "10.7.0.1"})).gateway.0.len(), 1);
    assert!(config(json!({"gateway": ["10.7.0.1", "fd07::1"]})).routes() && !config(json!({})).routes());
}

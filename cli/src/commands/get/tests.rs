//! Names that come from the network, and where a file goes.

use super::*;

#[test]
fn names_from_the_network_are_harmless() {
    let cases = [
        ("film.mp4", "film.mp4"),
        ("../../etc/passwd", "passwd"),
        ("/etc/cron.d/x", "x"),
        ("..\\..\\boot.ini", "boot.ini"),
        (".bashrc", "bashrc"),
        ("..", ""),
        ("", ""),
        ("a/", ""),
        ("-rf", "rf"),
        ("a\0b\nc", "a b c"),
        ("a\u{202e}4pm.exe", "a 4pm.exe"),
        ("what? a \"film\": part 1|2", "what_ a _film__ part 1_2"),
        ("  spaced out .  ", "spaced out"),
        ("Größe.mkv", "Größe.mkv"),
    ];
    for (text, name) in cases {
        assert_eq!(file_name(text), name, "{text:?}");
    }
    assert!(file_name(&"é".repeat(500)).len() <= MAX_NAME_BYTES);
}

#[test]
fn a_chosen_file_is_replaced_and_one_named_by_others_never() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    fs::write(&taken, "").unwrap();
    let file = |path: &Path| Destination::File(path.to_owned());
    assert_eq!(destination(Some(Path::new("-")), "x").unwrap(), Destination::Stdout);
    assert_eq!(destination(Some(&taken), "x").unwrap(), file(&taken));
    assert_eq!(destination(Some(dir.path()), "free").unwrap(), file(&dir.path().join("free")));
    assert_eq!(destination(Some(dir.path()), "taken").unwrap_err().exit, Exit::Conflict);
    assert_eq!(destination(None, "surely-not-there").unwrap(), file(Path::new("surely-not-there")));
    assert_eq!(beside(Path::new("a/film.mp4"), "part"), Path::new("a/film.mp4.part"));
}

#[test]
fn sources_are_what_came_in_the_meantime() {
    let counts = |list: &[(&str, u64)]| list.iter().map(|(node, bytes)| (node.to_string(), *bytes)).collect();
    let gained = difference(&counts(&[("a", 5), ("b", 5)]), &counts(&[("a", 5), ("b", 7), ("c", 1)]));
    assert_eq!(gained, [json!({"node": "b", "bytes": 2}), json!({"node": "c", "bytes": 1})]);
}

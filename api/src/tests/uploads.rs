//! Bodies that come in: forms and raw ones, good, broken, too long and too slow.

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    routing::post,
};
use futures::{StreamExt, stream};
use mhc_protocol::BlobHash;
use mhc_storage::blob::BlobStore;
use utoipa_axum::router::OpenApiRouter;

use super::{Answer, Bench, send};
use crate::{ApiError, Json, Routes, testing, upload};

const LIMIT_BYTES: u64 = 100_000;

/// What a service's upload route does, reduced to an echo.
async fn echo(State(store): State<BlobStore>, request: Request) -> Result<Json<serde_json::Value>, ApiError> {
    let mut upload = upload::receive(request, &store, LIMIT_BYTES).await?;
    Ok(Json(serde_json::json!({
        "blob": upload.blob.hash, "bytes": upload.blob.bytes, "name": upload.file_name, "type": upload.content_type,
        "title": upload.take("title"), "tags": upload.take_all("tags"),
    })))
}

async fn form(bench: &Bench, content_type: &str, body: impl Into<Body>) -> Answer {
    let routes: Routes = OpenApiRouter::new().route("/form", post(echo)).with_state(bench.store.clone());
    let mut options = bench.options();
    options.upload_limit_bytes = LIMIT_BYTES;
    let mut request = testing::operator_request("POST", "/form", body);
    if !content_type.is_empty() {
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
    }
    send(&bench.router_with(options, vec![routes]), request).await
}

const FORM: &str = "multipart/form-data; boundary=XX";

fn text(name: &str, value: &str) -> String {
    format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(data: &str) -> String {
    format!(
        "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f.mp4\"\r\nContent-Type: video/mp4\r\n\r\n{data}\r\n"
    )
}

const END: &str = "--XX--\r\n";

#[tokio::test]
async fn a_form_brings_a_file_and_fields_in_any_order() {
    let bench = Bench::new();
    let data = "x\r\n--X\r\n\r".repeat(500);
    let expected = BlobHash::of(data.as_bytes()).to_string();
    let orders = [
        [text("title", "T"), text("tags", "a"), text("tags", "b"), file(&data)].concat(),
        [file(&data), text("title", "T"), text("tags", "a"), text("tags", "b")].concat(),
        [text("tags", "a"), file(&data), text("title", "T"), text("tags", "b")].concat(),
    ];
    // In pieces that cut through boundaries and headers, and all at once.
    for (body, piece_bytes) in orders.into_iter().flat_map(|body| [1, 7, 8000, 1 << 20].map(|len| (body.clone(), len)))
    {
        let whole = Bytes::from(body + END);
        let pieces: Vec<_> =
            whole.chunks(piece_bytes).map(|piece| Ok::<_, std::io::Error>(whole.slice_ref(piece))).collect();
        let answer = form(&bench, FORM, Body::from_stream(stream::iter(pieces))).await;
        assert_eq!(answer.status, StatusCode::OK);
        let told = answer.json();
        assert_eq!(told["blob"], expected);
        assert_eq!((&told["name"], &told["type"]), (&"f.mp4".into(), &"video/mp4".into()));
        assert_eq!((&told["title"], &told["tags"]), (&"T".into(), &serde_json::json!(["a", "b"])));
        assert!(bench.store.status(BlobHash::of(data.as_bytes())).unwrap().complete);
    }
}

#[tokio::test]
async fn broken_forms_are_refused() {
    let bench = Bench::new();
    let long_header = format!("--XX\r\nContent-Disposition: {}", "a".repeat(5 << 20));
    let fields = |count: usize| (0..count).map(|n| text(&n.to_string(), "v")).collect::<String>();
    let table: Vec<(&str, &str, String, u16, &str)> = vec![
        ("no type", "", file("x") + END, 415, "unsupported_media"),
        ("other type", "application/json", "{}".into(), 415, "unsupported_media"),
        ("no boundary", "multipart/form-data", file("x") + END, 415, "unsupported_media"),
        ("empty", FORM, String::new(), 400, "bad_request"),
        ("no parts", FORM, END.into(), 400, "bad_request"),
        ("no file", FORM, text("title", "T") + END, 400, "bad_request"),
        ("two files", FORM, file("x") + &file("y") + END, 400, "bad_request"),
        ("other boundary", "multipart/form-data; boundary=YY", file("x") + END, 400, "bad_request"),
        (
            "cut in the file",
            FORM,
            "--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc".into(),
            400,
            "bad_request",
        ),
        ("cut in a head", FORM, "--XX\r\nContent-Dispo".into(), 400, "bad_request"),
        ("cut before the end", FORM, file("x"), 400, "bad_request"),
        (
            "no field name",
            FORM,
            "--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n".to_owned() + END,
            400,
            "bad_request",
        ),
        ("not UTF-8", FORM, "\u{0}".into(), 400, "bad_request"),
        ("endless part head", FORM, long_header, 400, "bad_request"),
        ("endless preamble", FORM, "a".repeat(5 << 20), 400, "bad_request"),
        ("long field", FORM, text("title", &"a".repeat(70_000)) + &file("x") + END, 413, "too_large"),
        ("many fields", FORM, fields(33) + &file("x") + END, 413, "too_large"),
        ("long file", FORM, file(&"a".repeat(100_001)) + END, 413, "too_large"),
    ];
    for (what, content_type, body, status, code) in table {
        // Without a Content-Length, so that the bytes themselves are judged.
        let pieces: Vec<_> =
            body.as_bytes().chunks(8000).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        let answer = form(&bench, content_type, Body::from_stream(stream::iter(pieces))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{what}: {}", answer.json());
    }
    assert!(form(&bench, FORM, fields(32) + &file("x") + END).await.status.is_success());
    assert!(form(&bench, FORM, file(&"a".repeat(100_000)) + END).await.status.is_success());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_given_up() {
    let bench = Bench::new();
    for begun in ["", "--XX\r\nContent-", "--XX\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc"] {
        let body = stream::iter([Ok::<_, std::io::Error>(begun)]).chain(stream::pending());
        let answer = form(&bench, FORM, Body::from_stream(body)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (408, "timeout"), "{begun:?}");
    }
    let body = stream::iter([Ok::<_, std::io::Error>("abc")]).chain(stream::pending());
    let raw = testing::operator_request("POST", "/blobs", Body::from_stream(body));
    assert_eq!(send(&bench.router(), raw).await.code(), "timeout");
    assert!(bench.store.list().is_empty(), "nothing of it is kept");
}

#[tokio::test]
async fn raw_bodies_are_bounded() {
    let bench = Bench::new();
    let mut options = bench.options();
    options.upload_limit_bytes = LIMIT_BYTES;
    let router = bench.router_with(options, vec![]);
    let body = |len: usize, announced: bool| {
        let pieces = vec![Ok::<_, std::io::Error>(vec![7u8; len])];
        if announced { Body::from(vec![7u8; len]) } else { Body::from_stream(stream::iter(pieces)) }
    };
    for (len, announced, status) in
        [(100_000, true, 201), (100_000, false, 201), (100_001, false, 413), (100_001, true, 413), (0, true, 201)]
    {
        let mut request = testing::operator_request("POST", "/blobs", body(len, announced));
        if announced {
            request.headers_mut().insert("content-length", len.to_string().parse().unwrap());
        }
        let answer = send(&router, request).await;
        assert_eq!(answer.status.as_u16(), status, "{len} {announced}");
        if status == 201 {
            let hash = BlobHash::of(&vec![7u8; len]);
            assert_eq!(answer.json(), serde_json::json!({ "blob": hash, "bytes": len }));
            assert_eq!(answer.header("location"), format!("/blobs/{hash}"));
        }
    }
    let broken = stream::iter([Ok("abc"), Err(std::io::Error::other("gone"))]);
    let request = testing::operator_request("POST", "/blobs", Body::from_stream(broken));
    assert_eq!(send(&router, request).await.code(), "bad_request");
}

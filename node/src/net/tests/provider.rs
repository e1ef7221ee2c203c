//! The provider against the client of iroh-blobs.

use bao_tree::{ChunkNum, ChunkRanges};
use iroh::{Endpoint, endpoint::presets};
use iroh_blobs::{
    Hash,
    get::fsm::{self, AtBlobHeader, ConnectedNext, EndBlobNext},
    hashseq::HashSeq,
    protocol::{ChunkRangesSeq, GetManyRequest, GetRequest, ObserveItem, ObserveRequest, Request},
};

use super::*;

/// A client that only speaks iroh, as `sendme` does.
struct Client {
    conn: Connection,
    _endpoint: Endpoint,
}

impl Client {
    async fn of(node: &Node) -> Self {
        let endpoint = Endpoint::builder(presets::Minimal).bind().await.unwrap();
        let addr = ids::endpoint_addr(node.net.node(), &node.net.iroh_addrs(), &[]).unwrap();
        let conn = endpoint.connect(addr, endpoint::BYTES_ALPN).await.unwrap();
        Self { conn, _endpoint: endpoint }
    }

    /// The blobs of an answer in order, each as the bytes that came.
    async fn get(&self, request: GetRequest, children: &[Hash]) -> Result<Vec<Vec<u8>>, String> {
        let connected = fsm::start(self.conn.clone(), request, Default::default()).next().await.map_err(text)?;
        let mut blobs = vec![];
        let mut next = match connected.next().await.map_err(text)? {
            ConnectedNext::StartRoot(root) => Step::Header(root.next()),
            ConnectedNext::StartChild(child) => Step::Child(child),
            ConnectedNext::Closing(closing) => Step::Closing(closing),
        };
        loop {
            next = match next {
                Step::Header(header) => {
                    let (end, bytes) = read(header).await?;
                    blobs.push(bytes);
                    match end.next() {
                        EndBlobNext::MoreChildren(child) => Step::Child(child),
                        EndBlobNext::Closing(closing) => Step::Closing(closing),
                    }
                }
                Step::Child(child) => match children.get(usize::try_from(child.offset()).unwrap() - 1) {
                    Some(hash) => Step::Header(child.next(*hash)),
                    None => Step::Closing(child.finish()),
                },
                Step::Closing(closing) => {
                    closing.next().await.map_err(text)?;
                    return Ok(blobs);
                }
            };
        }
    }

    /// Sends raw bytes as a request; the answer, or the code the stream was reset with.
    async fn raw(&self, bytes: &[u8]) -> Result<Vec<u8>, u64> {
        let (mut send, mut recv) = self.conn.open_bi().await.unwrap();
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        match recv.read_to_end(1 << 20).await {
            Ok(bytes) => Ok(bytes),
            Err(iroh::endpoint::ReadToEndError::Read(iroh::endpoint::ReadError::Reset(code))) => Err(code.into_inner()),
            Err(error) => panic!("{error}"),
        }
    }
}

enum Step {
    Header(AtBlobHeader),
    Child(fsm::AtStartChild),
    Closing(fsm::AtClosing),
}

async fn read(header: AtBlobHeader) -> Result<(fsm::AtEndBlob, Vec<u8>), String> {
    header.concatenate_into_vec().await.map_err(text)
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn theirs(hash: BlobHash) -> Hash {
    Hash::from_bytes(*hash.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_come_whole_and_by_range() {
    let node = Node::start(1).await;
    let client = Client::of(&node).await;
    for len in [0, 1, 1024, 16 * 1024, 16 * 1024 + 1, 300_000] {
        let bytes = noise(len);
        let hash = theirs(node.import(bytes.clone()).await);
        assert_eq!(client.get(GetRequest::blob(hash), &[]).await, Ok(vec![bytes.clone()]), "{len}");
        for (start, end) in [(0, 16), (16, 32), (32, 48), (272, 288)] {
            let ranges = ChunkRanges::from(ChunkNum(start)..ChunkNum(end));
            let got = client.get(GetRequest::blob_ranges(hash, ranges), &[]).await.unwrap().remove(0);
            let expected: Vec<u8> = bytes.iter().copied().skip(start as usize * 1024).take(16 * 1024).collect();
            if !expected.is_empty() {
                assert_eq!(got, expected, "{len}: chunks {start} to {end}");
            }
        }
        let size = iroh_blobs::get::request::get_verified_size(&client.conn, &hash).await.unwrap().0;
        assert_eq!(size, len as u64);
    }
    let served = node.net.metrics().blob_bytes_served.get();
    let told: u64 = node.net.peers().iter().map(|peer| peer.bytes_out).sum();
    assert!(served > 400_000 && told == served, "{served} served, {told} accounted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hash_sequences_come_with_their_children_as_sendme_asks() {
    let node = Node::start(1).await;
    let client = Client::of(&node).await;
    let bodies = [noise(10), noise(20_000), noise(40_000)];
    let mut children = vec![];
    for body in &bodies {
        children.push(theirs(node.import(body.clone()).await));
    }
    let sequence: HashSeq = children.iter().copied().collect();
    let sequence = Vec::from(sequence.into_inner());
    let root = theirs(node.import(sequence.clone()).await);
    let (seq, sizes) =
        iroh_blobs::get::request::get_hash_seq_and_sizes(&client.conn, &root, 1 << 20, None).await.unwrap();
    assert_eq!((seq.len(), sizes.to_vec()), (3, vec![10, 20_000, 40_000]));
    let all = client.get(GetRequest::all(root), &children).await.unwrap();
    assert_eq!(all, [vec![sequence], bodies.to_vec()].concat());
    let second = GetRequest::builder().child(1, ChunkRanges::all()).build(root);
    assert_eq!(client.get(second, &children).await.unwrap(), [bodies[1].clone()]);
    let many = GetManyRequest::from_iter(children.iter().copied());
    let wire = postcard::to_stdvec(&Request::GetMany(many)).unwrap();
    let answer = client.raw(&wire).await.unwrap();
    assert!(answer.len() > 60_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cant_be_answered_is_refused_with_its_code() {
    let node = Node::start(1).await;
    let client = Client::of(&node).await;
    let (internal, limit, permission) = (3, 2, 1);
    let here = theirs(node.import(noise(1000)).await);
    let missing = theirs(BlobHash::of(b"nobody has it"));
    let child: Vec<u8> = HashSeq::from_iter([missing]).into_inner().to_vec();
    let dangling = theirs(node.import(child).await);
    let long: Vec<u8> = std::iter::repeat_n(*here.as_bytes(), 5000).flatten().collect();
    let long = theirs(node.import(long).await);
    let far = ChunkRangesSeq::from_ranges([ChunkRanges::empty(), ChunkRanges::all()]);
    let wire = |request: Request| postcard::to_stdvec(&request).unwrap();
    let get = |hash, ranges| wire(Request::Get(GetRequest::new(hash, ranges)));
    // A selection that starts at blob 2^40: whoever counts up to it hangs.
    let bomb = [&[0][..], long.as_bytes(), &postcard::to_stdvec(&vec![(1u64 << 40, vec![0u64])]).unwrap()].concat();
    let crowd = GetManyRequest::new(vec![here; 400], ChunkRangesSeq::all());
    let cases: Vec<(&str, Vec<u8>, Result<(), u64>)> = vec![
        ("here", wire(Request::Get(GetRequest::blob(here))), Ok(())),
        ("missing", wire(Request::Get(GetRequest::blob(missing))), Err(internal)),
        ("missing child", wire(Request::Get(GetRequest::all(dangling))), Err(internal)),
        ("not a sequence", wire(Request::Get(GetRequest::all(here))), Err(internal)),
        ("a sequence over the limit", wire(Request::Get(GetRequest::all(long))), Err(limit)),
        ("its first child", get(long, far), Ok(())),
        ("a far selection", bomb, Err(limit)),
        ("400 times the same", wire(Request::GetMany(crowd)), Ok(())),
        ("a push", [&[8, 34][..], here.as_bytes(), &[1, 0, 1, 0]].concat(), Err(permission)),
        ("an unused kind", vec![3], Err(internal)),
        ("an unknown kind", vec![77], Err(internal)),
        ("nothing", vec![], Err(internal)),
        ("too long", vec![0; 20_000], Err(internal)),
        ("cut", wire(Request::Get(GetRequest::blob(here)))[..20].to_vec(), Err(internal)),
    ];
    for (name, request, expected) in cases {
        assert_eq!(client.raw(&request).await.map(drop), expected, "{name}");
    }
    assert!(node.net.metrics().blob_requests_refused.get() >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_tiny_requests_is_slowed_down_and_the_rest_isnt() {
    let node = Node::start(1).await;
    let hash = theirs(node.import(noise(1000)).await);
    let flooder = Client::of(&node).await;
    let wire = postcard::to_stdvec(&Request::Get(GetRequest::blob(hash))).unwrap();
    let flood = (0..600).map(|_| flooder.raw(&wire));
    let answers = futures::future::join_all(flood).await;
    assert!(answers.iter().all(Result::is_ok), "slowed down, not refused");
    assert!(node.net.metrics().blob_requests_throttled.get() > 0);
    let before = node.net.metrics().blob_requests_throttled.get();
    let other = Client::of(&node).await;
    assert!(other.raw(&wire).await.is_ok());
    assert_eq!(node.net.metrics().blob_requests_throttled.get(), before, "another peer has its own bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_sees_a_blob_grow() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    let hash = b.import(noise(100_000)).await;
    let client = Client::of(&a).await;
    let (mut send, mut recv) = client.conn.open_bi().await.unwrap();
    let request = Request::Observe(ObserveRequest::new(theirs(hash)));
    send.write_all(&postcard::to_stdvec(&request).unwrap()).await.unwrap();
    send.finish().unwrap();
    let item = observed(&mut recv).await;
    assert_eq!((item.size, item.ranges.is_empty()), (0, true), "nothing yet");
    assert_eq!(a.import(noise(100_000)).await, hash);
    let item = observed(&mut recv).await;
    assert_eq!((item.size, item.ranges), (100_000, ChunkRanges::from(ChunkNum(0)..ChunkNum(98))));
}

async fn observed(recv: &mut iroh::endpoint::RecvStream) -> ObserveItem {
    let mut len = [0];
    recv.read_exact(&mut len).await.unwrap();
    assert!(len[0] < 0x80);
    let mut item = vec![0; len[0].into()];
    recv.read_exact(&mut item).await.unwrap();
    postcard::from_bytes(&item).unwrap()
}

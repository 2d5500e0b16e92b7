//! What stands between librdkafka and the broker.
//!
//! librdkafka ends a transaction with `EndTxn` 1, which the broker knows from version 3 on: the same fields, of which the name
//! is written in another way, and room for more. All else passes as it is.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// `EndTxn`.
const END: [u8; 2] = 26_i16.to_be_bytes();

/// Numbers of requests that were rewritten, and not answered yet.
type Ends = Mutex<HashSet<[u8; 4]>>;

/// Takes everybody in.
pub async fn run(listener: TcpListener, behind: SocketAddr) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(async move {
            let broker = TcpStream::connect(behind).await?;
            let ((mut asked, mut told), (mut answered, mut asking)) = (client.into_split(), broker.into_split());
            let ends = Ends::default();
            // When one side breaks, so does the other.
            tokio::select! {
                broken = requests(&mut asked, &mut asking, &ends) => broken,
                broken = answers(&mut answered, &mut told, &ends) => broken,
            }
        });
    }
}

async fn requests(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    ends: &Ends,
) -> io::Result<()> {
    loop {
        let mut request = frame(from).await?;
        if request[..2] == END {
            ends.lock().unwrap_or_else(PoisonError::into_inner).insert(number(&request[4..]));
            request = newer_end(&request);
        }
        write_frame(to, &request).await?;
    }
}

async fn answers(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    ends: &Ends,
) -> io::Result<()> {
    loop {
        let mut answer = frame(from).await?;
        if ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&number(&answer)) {
            // Neither the head nor the body has room for more.
            answer.remove(4);
            answer.pop();
        }
        write_frame(to, &answer).await?;
    }
}

fn number(bytes: &[u8]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// `EndTxn` 1 as 3: the length of the name is one byte and counts from one; head and body end with a list of further fields.
fn newer_end(request: &[u8]) -> Vec<u8> {
    let length = |at: usize| usize::from(u16::from_be_bytes([request[at], request[at + 1]]));
    let body = 10 + length(8);
    let name = length(body);
    assert!(name < 127, "a short name");
    let mut newer = request[..body].to_vec();
    newer[2..4].copy_from_slice(&3_i16.to_be_bytes());
    newer.extend_from_slice(&[0, name as u8 + 1]);
    newer.extend_from_slice(&request[body + 2..]);
    newer.push(0);
    newer
}

async fn frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; from.read_u32().await? as usize];
    from.read_exact(&mut frame).await?;
    if frame.len() < 10 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(frame) }
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    to.write_u32(frame.len() as u32).await?;
    to.write_all(frame).await?;
    to.flush().await
}

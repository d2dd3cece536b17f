//! `token …`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_proto::v1::{
    CreateTokenRequest, ListTokensRequest, ListTokensResponse, RevokeTokenRequest, Role as ApiRole,
    token_service_client::TokenServiceClient,
};

use crate::{
    args::{Format, Global, Role, Token},
    output::{columns, last, print, short},
    session::client,
};

fn table(tokens: &ListTokensResponse) -> String {
    let now = i64::try_from(fleet_runtime::clock::now().0 / 1_000).unwrap_or(i64::MAX);
    let rows = tokens.tokens.iter().map(|token| {
        let left = token.expire_time.map_or(0, |at| at.seconds - now);
        let expires = if left >= 0 { format!("in {}m", left / 60) } else { "expired".into() };
        vec![
            last(&token.name).to_owned(),
            short(token.role().as_str_name()),
            token.uses_left.to_string(),
            expires,
        ]
    });
    columns(&["ID", "ROLE", "USES LEFT", "EXPIRES"], rows)
}

/// Carries out a `token` command.
pub async fn run(global: &Global, command: Token) -> Result<ExitCode> {
    let client = client(global)?;
    match command {
        Token::Create { role, ttl, uses, quiet } => {
            let role = if role == Role::Worker { ApiRole::Worker } else { ApiRole::Voter };
            let seconds = i64::try_from(ttl).unwrap_or(i64::MAX);
            let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
            let request = CreateTokenRequest { role: role.into(), ttl, uses };
            let answer = client
                .call(|channel| async move {
                    TokenServiceClient::new(channel).create_token(request).await
                })
                .await?;
            if quiet || global.output == Format::Table {
                println!("{}", answer.secret);
            } else {
                print(global.output, "CreateTokenResponse", &answer, |_| answer.secret.clone())?;
            }
            if !quiet {
                let address = client.endpoint().unwrap_or("NODE:7400");
                eprintln!(
                    "shown once. On the new machine, with the token in a file:\n  \
                     fleet-cluster join {address} --advertise ITS-ADDRESS --token-file FILE"
                );
            }
        }
        Token::List => {
            let all = client
                .call(|channel| async move {
                    TokenServiceClient::new(channel)
                        .list_tokens(ListTokensRequest { page_size: 1_000, ..Default::default() })
                        .await
                })
                .await?;
            print(global.output, "ListTokensResponse", &all, |_| table(&all))?;
        }
        Token::Revoke { id } => {
            let request = RevokeTokenRequest { name: format!("tokens/{id}") };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { TokenServiceClient::new(channel).revoke_token(request).await }
                })
                .await?;
            eprintln!("token {id} admits nobody any more");
        }
    }
    Ok(ExitCode::SUCCESS)
}

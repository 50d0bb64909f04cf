// Backends of the gateway's configuration, composed from accounts; and what the types of accounts cannot refuse.

import { account, existingAccount } from 'types.bicep'

// One backend for each SKU of an account: a SKU has its own prices, place in the order and data zone, and several may
// deploy one model. Batch SKUs become none, so that no call but a batch reaches them.
var skus = {
  GlobalStandard: { suffix: '', deployment: 'global', kind: 'standard' }
  DataZoneStandard: { suffix: '-data-zone', deployment: 'data_zone', kind: 'standard' }
  Standard: { suffix: '-regional', deployment: 'regional', kind: 'standard' }
  DeveloperTier: { suffix: '-developer', deployment: 'global', kind: 'standard' }
  ProvisionedManaged: { suffix: '-provisioned', deployment: 'regional', kind: 'provisioned' }
  GlobalProvisionedManaged: { suffix: '-provisioned-global', deployment: 'global', kind: 'provisioned' }
  DataZoneProvisionedManaged: { suffix: '-provisioned-data-zone', deployment: 'data_zone', kind: 'provisioned' }
}

@export()
@description('True for an account that serves models of other makers than OpenAI: a Foundry resource.')
func isFoundry(a account) bool => !empty(filter(a.deployments, d => (d.?format ?? 'OpenAI') != 'OpenAI'))

func skusOf(a account) array => filter(items(skus), sku => contains(map(a.deployments, d => d.sku), sku.key))

@export()
@description('Backends of accounts that are created. `token` ends their names, `path` begins their resource ids.')
func createdBackends(accounts account[], token string, path string) array =>
  flatten(map(
    accounts,
    a =>
      map(skusOf(a), sku => {
        name: '${a.name}${sku.value.suffix}'
        endpoint: 'https://oai-${a.name}-${token}.${isFoundry(a) ? 'services.ai' : 'openai'}.azure.com'
        resource_id: '${path}/oai-${a.name}-${token}'
        region: a.region
        data_zone: sku.value.deployment == 'global' ? null : a.?dataZone
        kind: sku.value.kind
        deployment: sku.value.deployment
        capacity: map(
          filter(a.deployments, d => d.sku == sku.key && sku.value.kind == 'provisioned'),
          d => { model: d.?alias ?? d.model, units: d.capacity, from: d.?since ?? '2020-01-01' }
        )
        models: toObject(filter(a.deployments, d => d.sku == sku.key), d => d.?alias ?? d.model, d => d.name)
        priority: sku.value.kind == 'provisioned' ? a.?provisionedPriority ?? 0 : a.?priority ?? 1
        weight: a.?weight ?? 1
        quota_group: a.?quotaGroup ?? ''
      })
  ))

@export()
@description('Backends of accounts that exist.')
func existingBackends(accounts existingAccount[]) array =>
  map(accounts, a => {
    name: a.name
    endpoint: a.?endpoint ?? 'https://${last(split(a.resourceId, '/'))}.${a.?foundry ?? false ? 'services.ai' : 'openai'}.azure.com'
    resource_id: a.resourceId
    region: a.region
    data_zone: a.?dataZone
    api_version: a.?apiVersion ?? 'v1'
    kind: a.?kind ?? 'standard'
    deployment: a.?deployment
    capacity: a.?capacity ?? []
    models: empty(a.?types)
      ? a.models
      : toObject(
          items(a.models),
          m => m.key,
          m => contains(a.types!, m.key) ? { deployment: m.value, type: a.types![m.key] } : m.value
        )
    priority: a.?priority ?? 1
    weight: a.?weight ?? 1
    quota_group: a.?quotaGroup ?? ''
  })

func repeated(names string[]) string[] => filter(union(names, []), name => length(filter(names, n => n == name)) > 1)

func isHostName(name string) bool =>
  !startsWith(name, '-') && !endsWith(name, '-') && empty(filter(
    range(0, length(name)),
    i => !contains('abcdefghijklmnopqrstuvwxyz0123456789-', substring(name, i, 1))
  ))

func isAccountId(id string) bool =>
  length(split(id, '/')) == 9 && contains(toLower(id), '/providers/microsoft.cognitiveservices/accounts/')

func waysOf(a account) string[] =>
  map(filter(a.deployments, d => contains(skus, d.sku)), d => '${d.?alias ?? d.model} by ${d.sku} in ${a.name}')

@export()
@description('A sentence for each problem of the accounts.')
func accountProblems(accounts account[], existing existingAccount[]) string[] =>
  concat(
    empty(accounts) && empty(existing)
      ? ['accounts: expected an Azure OpenAI account to create here, or one that exists, in existingAccounts.']
      : [],
    map(
      filter(accounts, a => !isHostName(a.name)),
      a =>
        'accounts: expected a name of small letters, digits and -, since it becomes a part of a host name, got "${a.name}".'
    ),
    map(
      filter(accounts, a => empty(skusOf(a))),
      a => 'accounts: expected a deployment of ${a.name} that serves more than batches, so that it becomes a backend.'
    ),
    map(
      repeated(map(accounts, a => a.name)),
      name => 'accounts: expected a name of its own for every account, got ${name} twice.'
    ),
    map(
      repeated(concat(
        flatten(map(accounts, a => map(skusOf(a), sku => '${a.name}${sku.value.suffix}'))),
        map(existing, a => a.name)
      )),
      name => 'accounts, existingAccounts: expected a name of its own for every backend, got ${name} twice.'
    ),
    map(
      repeated(flatten(map(accounts, a => waysOf(a)))),
      way =>
        'accounts: expected one deployment of a model by one SKU in an account, got ${way} twice; add their capacities up, or give one an alias.'
    ),
    map(
      filter(existing, a => !isAccountId(a.resourceId)),
      a =>
        'existingAccounts: expected /subscriptions/…/resourceGroups/…/providers/Microsoft.CognitiveServices/accounts/NAME as the resourceId of ${a.name}, got ${a.resourceId}.'
    ),
    map(
      flatten(map(
        existing,
        a =>
          map(filter(objectKeys(a.?types ?? {}), model => !contains(a.models, model)), model => '${model} of ${a.name}')
      )),
      model => 'existingAccounts: expected a model of the account in its types, got ${model}.'
    ),
    map(
      filter(existing, a => !empty(a.?dataZone) && (a.?deployment ?? 'global') == 'global'),
      a =>
        'existingAccounts: expected no dataZone of ${a.name}, since global deployments leave it; or set its deployment to data_zone or regional.'
    )
  )

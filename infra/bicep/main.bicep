// All resources that `azd up` or `az deployment sub create` creates; docs/deploy.md has the commands.

targetScope = 'subscription'

import { accountProblems, createdBackends, existingBackends, isFoundry } from 'accounts.bicep'
import { limitSettings, modelSettings, otherSections, timeoutSettings } from 'sections.bicep'
import { account, existingAccount, modelProvider, roles } from 'types.bicep'

@description('Name of the environment; part of the name of the resource group.')
@minLength(1)
@maxLength(64)
param environmentName string

@description('Azure region of the gateway. It must offer Flex Consumption.')
@minLength(1)
@metadata({
  azd: {
    type: 'location'
  }
})
param location string

@description('Name of the resource group.')
@minLength(1)
@maxLength(90)
param resourceGroupName string = 'rg-${environmentName}'

@description('Azure OpenAI accounts to create. Failover needs two regions or more.')
param accounts account[] = []

@description('Existing Azure OpenAI accounts.')
param existingAccounts existingAccount[] = []

@description('Your organisation, as Azure tells Anthropic with every deployment of Claude. Needed for those alone.')
param claudeCustomer modelProvider?

@description('The section `models` of the configuration: fallbacks, aliases and limits, by model.')
param models modelSettings = {}

@description('The section `limits` of the configuration.')
param limits limitSettings = {}

@description('The section `timeouts` of the configuration.')
param timeouts timeoutSettings = {}

@description('Further sections of the configuration, such as `ledger`, passed on as they are.')
param sections otherSections = {}

@description('Operations of the models that the gateway may use. `inference`: chat, responses, embeddings, images, speech. `everything`: also files, batches, vector stores, fine-tuning, evals and stored completions, by a custom role, which only an Owner or User Access Administrator may create.')
@allowed(['inference', 'everything'])
param modelAccess string = 'inference'

@description('Blob container for the monthly files of charges, in the storage account of the tables. Empty: no export.')
@maxLength(63)
param exportContainer string = ''

@description('Billing account in exported charges: who pays for the whole.')
@minLength(1)
param billingAccount string = 'tollgate'

@description('Object id of the operator, who uses the command line: creates keys, reads usage, compares it with Azure\'s. Empty: nobody.')
param operatorPrincipalId string = ''

@description('Type of the operator\'s principal.')
@allowed(['User', 'Group', 'ServicePrincipal'])
param operatorPrincipalType string = 'User'

@description('Secret that opens the management API. Empty: the API is closed.')
@secure()
param managementKey string = ''

@description('Keep the management key in a Key Vault instead of in the settings of the app.')
param keyVault bool = false

@description('Forbid everybody to purge the deleted vault for 7 days. It cannot be turned off again, and `azd down` then leaves the name taken.')
param purgeProtection bool = false

@description('Restore the accounts and the vault of an earlier deployment of this name that were deleted and not purged. Only then: Azure refuses it where nothing is to be restored.')
param restoreDeleted bool = false

@description('Put a lock on the storage account of the tables, so that nobody deletes keys and usage by mistake. `azd down` fails while it is there.')
param lockState bool = false

@description('Secrets that the configuration names, such as `secret_env` in `alerts`: name of the variable and value.')
@secure()
param secretSettings object = {}

@description('Memory of an instance in MB; it also sets the CPU (2048: one core).')
@allowed([512, 2048, 4096])
param instanceMemoryMB int = 2048

@description('Largest request body with a length, in bytes. The host holds it in memory about five times, without asking for a key.')
@minValue(1048576)
@maxValue(1073741824)
param requestBodyLimitBytes int = 33554432

@description('Calls that one instance serves at a time. Azure\'s default for Python is 1.')
@minValue(1)
@maxValue(1000)
param perInstanceConcurrency int = 100

@description('Maximum number of instances.')
@minValue(40)
@maxValue(1000)
param maximumInstanceCount int = 40

@description('Always-ready instances. 0: idle costs nothing, and the first call after a pause waits for a cold start.')
@minValue(0)
@maxValue(1000)
param alwaysReadyInstances int = 0

@description('Spread instances and stored data over availability zones, if the region has them. Needs 2 always-ready instances or more.')
param zoneRedundant bool = false

@description('The way instances are replaced by an update. `RollingUpdate` (a preview of Azure\'s) lets running calls end; `Recreate` cuts them.')
@allowed(['RollingUpdate', 'Recreate'])
param updateStrategy string = 'RollingUpdate'

@description('Application Insights and Log Analytics.')
param telemetry bool = true

@description('Days for which telemetry is kept. The first 90 days in Application Insights\' tables cost nothing.')
@minValue(30)
@maxValue(730)
param telemetryRetentionInDays int = 90

@description('Maximum gigabytes of telemetry per day; the rest is dropped. 0: no limit.')
@minValue(0)
param telemetryDailyQuotaGb int = 5

@description('Traces per second that each instance keeps, and as many of calls that went wrong.')
@minValue(0)
@maxValue(1000)
param tracesPerSecond int = 1

@description('E-mail address that gets the alerts. Empty: no alert rules.')
param alertEmail string = ''

@description('Calls per thousand that may fail: the error budget of the alerts.')
@minValue(1)
@maxValue(500)
param failedCallsPerThousand int = 10

@description('Average seconds to the first token of a stream above which an alert fires.')
@minValue(1)
@maxValue(600)
param slowFirstTokenSeconds int = 10

@description('USD a month for the resource group, models included, from which `alertEmail` gets a message: at 80 % of the sum, and when a forecast exceeds it. 0: no budget.')
@minValue(0)
param monthlyBudgetUsd int = 0

@description('With `monthlyBudgetUsd`: first day of the month in which the budget begins, as 2026-12-01. Azure does not change it later.')
param budgetStart string = ''

@description('Create a virtual network with private endpoints to storage and to the created Azure OpenAI accounts, and close their public endpoints.')
param privateNetwork bool = false

@description('With `privateNetwork`: also close the public endpoint of the gateway.')
param privateApp bool = false

@description('Address space of the virtual network, /24 or larger.')
param addressPrefix string = '10.80.0.0/24'

@description('IPv4 ranges in CIDR notation that may call the gateway. Empty: everybody with a key.')
param allowedIpRanges string[] = []

@description('With `privateNetwork`: public IPv4 addresses or ranges that may reach the tables, for the command line.')
param operatorIpRanges string[] = []

@description('Further tags of every resource.')
param tags object = {}

var token = uniqueString(subscription().id, environmentName, location)
var accountsId = '${subscription().id}/resourceGroups/${resourceGroupName}/providers/Microsoft.CognitiveServices/accounts'
var allTags = union(tags, { 'azd-env-name': environmentName })
var names = {
  alerts: 'tollgate-${token}'
  app: 'func-tollgate-${token}'
  component: 'appi-tollgate-${token}'
  hostStorage: 'sthost${token}'
  identity: 'id-tollgate-${token}'
  network: 'vnet-tollgate-${token}'
  plan: 'plan-tollgate-${token}'
  stateStorage: 'sttoll${token}'
  vault: 'kv-toll-${token}'
  workspace: 'log-tollgate-${token}'
}
var packageContainer = 'packages'
var alerting = telemetry && !empty(alertEmail)
var useVault = keyVault && !empty(managementKey)
var storageSku = zoneRedundant ? 'Standard_ZRS' : 'Standard_LRS'

var problems = concat(
  accountProblems(accounts, existingAccounts),
  claudeCustomer == null && contains(flatten(map(accounts, a => map(a.deployments, d => d.?format ?? ''))), 'Anthropic')
    ? [
        'claudeCustomer: expected organizationName, industry and countryCode, which Azure demands for deployments of Claude.'
      ]
    : [],
  zoneRedundant && alwaysReadyInstances < 2
    ? ['zoneRedundant: expected 2 or more alwaysReadyInstances with it, got ${alwaysReadyInstances}.']
    : [],
  privateApp && !privateNetwork ? ['privateApp: expected privateNetwork with it.'] : [],
  monthlyBudgetUsd > 0 && (empty(alertEmail) || empty(budgetStart))
    ? ['monthlyBudgetUsd: expected alertEmail and budgetStart with it, the latter such as 2026-12-01.']
    : []
)
// Everything is made of these two, so that a problem stops the deployment before anything is created.
var created = empty(problems) ? accounts : fail(join(problems, '\n'))
var existing = empty(problems) ? existingAccounts : fail(join(problems, '\n'))

// The configuration document, composed from the parameters that also create the accounts, so that nothing is typed twice.
var configuration = {
  backends: concat(createdBackends(created, token, accountsId), existingBackends(existing))
  models: models
  limits: limits
  timeouts: timeouts
  export: {
    container: empty(exportContainer) ? null : exportContainer
    billing_account: billingAccount
  }
  telemetry: {
    traces_per_second: tracesPerSecond
  }
}

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: resourceGroupName
  location: location
  tags: allTags
}

module identity 'identity.bicep' = {
  name: 'identity'
  scope: group
  params: {
    name: names.identity
    location: location
    tags: allTags
  }
}

module network 'network.bicep' = if (privateNetwork) {
  name: 'network'
  scope: group
  params: {
    name: names.network
    location: location
    tags: allTags
    addressPrefix: addressPrefix
  }
}

module hostStorage 'storage.bicep' = {
  name: 'host-storage'
  scope: group
  params: {
    name: names.hostStorage
    location: location
    tags: allTags
    sku: storageSku
    containers: [packageContainer]
    assignments: [
      {
        principalId: identity.outputs.principalId
        principalType: 'ServicePrincipal'
        roleId: roles.storageBlobDataOwner
      }
    ]
    restrictNetwork: privateNetwork
    allowedIpRanges: []
  }
}

// The built-in role OpenAI User lacks files, batches, fine-tuning, evals and stored completions; the built-in roles that
// have them may change deployments, too.
resource everything 'Microsoft.Authorization/roleDefinitions@2022-04-01' = if (modelAccess == 'everything') {
  name: guid(subscription().id, names.app, 'everything')
  properties: {
    roleName: 'Tollgate ${token}: all operations of Azure OpenAI models'
    description: 'All that the gateway ${names.app} serves. No management of accounts or deployments.'
    type: 'CustomRole'
    permissions: [
      {
        actions: []
        dataActions: ['Microsoft.CognitiveServices/accounts/OpenAI/*']
      }
    ]
    assignableScopes: union([subscription().id], map(existing, a => '/subscriptions/${split(a.resourceId, '/')[2]}'))
  }
}
var openAiRole = modelAccess == 'everything' ? everything.name : roles.cognitiveServicesOpenAIUser

// Roles of the operator: state and exported files for the command line, and Azure's count of the calls.
var stateRoles = concat(
  [roles.storageTableDataContributor],
  empty(exportContainer) ? [] : [roles.storageBlobDataContributor]
)
var operatorOfState = map(empty(operatorPrincipalId) ? [] : stateRoles, role => {
  principalId: operatorPrincipalId
  principalType: operatorPrincipalType
  roleId: role
})
var operatorOfAccounts = map(empty(operatorPrincipalId) ? [] : [roles.monitoringReader], role => {
  principalId: operatorPrincipalId
  principalType: operatorPrincipalType
  roleId: role
})

module stateStorage 'storage.bicep' = {
  name: 'state-storage'
  scope: group
  params: {
    name: names.stateStorage
    location: location
    tags: allTags
    sku: storageSku
    tables: [
      'accessrequests'
      'affinity'
      'consumernames'
      'consumers'
      'control'
      'foreignkeys'
      'health'
      'limits'
      'pending'
      'rotation'
      'usageagg'
    ] // the gateway creates the monthly tables of raw usage
    containers: empty(exportContainer) ? [] : [exportContainer]
    assignments: concat(
      operatorOfState,
      [
        {
          principalId: identity.outputs.principalId
          principalType: 'ServicePrincipal'
          roleId: roles.storageTableDataContributor
        }
      ],
      empty(exportContainer)
        ? []
        : [
            {
              principalId: identity.outputs.principalId
              principalType: 'ServicePrincipal'
              roleId: roles.storageBlobDataContributor
            }
          ]
    )
    lock: lockState
    workspaceId: telemetry ? monitoring!.outputs.workspaceId : ''
    restrictNetwork: privateNetwork
    allowedIpRanges: operatorIpRanges
  }
}

module hostStorageEndpoint 'private-endpoint.bicep' = if (privateNetwork) {
  name: 'host-storage-endpoint'
  scope: group
  params: {
    name: 'pe-${names.hostStorage}'
    location: location
    tags: allTags
    targetId: hostStorage.outputs.id
    group: 'blob'
    subnetId: network!.outputs.endpointsSubnetId
    dnsZoneIds: [network!.outputs.blobZoneId]
  }
}

module stateStorageEndpoint 'private-endpoint.bicep' = if (privateNetwork) {
  name: 'state-storage-endpoint'
  scope: group
  params: {
    name: 'pe-${names.stateStorage}'
    location: location
    tags: allTags
    targetId: stateStorage.outputs.id
    group: 'table'
    subnetId: network!.outputs.endpointsSubnetId
    dnsZoneIds: [network!.outputs.tableZoneId]
  }
}

module stateFilesEndpoint 'private-endpoint.bicep' = if (privateNetwork && !empty(exportContainer)) {
  name: 'state-files-endpoint'
  scope: group
  params: {
    name: 'pe-${names.stateStorage}-blob'
    location: location
    tags: allTags
    targetId: stateStorage.outputs.id
    group: 'blob'
    subnetId: network!.outputs.endpointsSubnetId
    dnsZoneIds: [network!.outputs.blobZoneId]
  }
}

module openAi 'openai.bicep' = [
  for a in created: {
    name: 'openai-${a.name}'
    scope: group
    params: {
      name: 'oai-${a.name}-${token}'
      region: a.region
      tags: allTags
      deployments: a.deployments
      foundry: isFoundry(a)
      provider: claudeCustomer
      assignments: concat(
        operatorOfAccounts,
        map(isFoundry(a) ? [openAiRole, roles.cognitiveServicesUser] : [openAiRole], role => {
          principalId: identity.outputs.principalId
          principalType: 'ServicePrincipal'
          roleId: role
        })
      )
      subnetId: privateNetwork ? network!.outputs.endpointsSubnetId : ''
      dnsZoneIds: privateNetwork ? network!.outputs.accountZoneIds : []
      subnetLocation: location
      restore: restoreDeleted
      workspaceId: telemetry ? monitoring!.outputs.workspaceId : ''
    }
  }
]

module openAiAccess 'openai-access.bicep' = [
  for a in existing: {
    name: take('openai-access-${a.name}-${token}', 64)
    scope: resourceGroup(split(a.resourceId, '/')[2], split(a.resourceId, '/')[4])
    params: {
      name: last(split(a.resourceId, '/'))
      assignments: concat(
        operatorOfAccounts,
        map(a.?foundry ?? false ? [openAiRole, roles.cognitiveServicesUser] : [openAiRole], role => {
          principalId: identity.outputs.principalId
          principalType: 'ServicePrincipal'
          roleId: role
        })
      )
    }
  }
]

module openAiEndpoints 'private-endpoint.bicep' = [
  for a in existing: if (privateNetwork && (a.?privateEndpoint ?? false)) {
    name: take('openai-endpoint-${a.name}', 64)
    scope: group
    params: {
      name: take('pe-${a.name}-${token}', 64)
      location: location
      tags: allTags
      targetId: a.resourceId
      group: 'account'
      subnetId: network!.outputs.endpointsSubnetId
      dnsZoneIds: network!.outputs.accountZoneIds
    }
  }
]

module monitoring 'monitoring.bicep' = if (telemetry) {
  name: 'monitoring'
  scope: group
  params: {
    workspaceName: names.workspace
    componentName: names.component
    location: location
    tags: allTags
    retentionInDays: telemetryRetentionInDays
    dailyQuotaGb: telemetryDailyQuotaGb
    principalId: identity.outputs.principalId
  }
}

module alerts 'alerts.bicep' = if (alerting) {
  name: 'alerts'
  scope: group
  params: {
    componentId: monitoring!.outputs.componentId
    workspaceId: monitoring!.outputs.workspaceId
    location: location
    tags: allTags
    namePrefix: names.alerts
    email: alertEmail
    failedCallsPerThousand: failedCallsPerThousand
    slowFirstTokenSeconds: slowFirstTokenSeconds
  }
}

module availability 'availability.bicep' = if (alerting && !privateApp) {
  name: 'availability'
  scope: group
  params: {
    componentId: monitoring!.outputs.componentId
    actionGroupId: alerts!.outputs.actionGroupId
    location: location
    tags: allTags
    name: '${names.alerts}-unreachable'
    url: app.outputs.url
  }
}

module budget 'budget.bicep' = if (monthlyBudgetUsd > 0) {
  name: 'budget'
  scope: group
  params: {
    name: names.alerts
    amount: monthlyBudgetUsd
    start: budgetStart
    email: alertEmail
  }
}

module workbook 'workbook.bicep' = if (telemetry) {
  name: 'workbook'
  scope: group
  params: {
    componentId: monitoring!.outputs.componentId
    location: location
    tags: allTags
  }
}

module vault 'key-vault.bicep' = if (useVault) {
  name: 'key-vault'
  scope: group
  params: {
    name: names.vault
    location: location
    tags: allTags
    principalId: identity.outputs.principalId
    purgeProtection: purgeProtection
    restore: restoreDeleted
    workspaceId: telemetry ? monitoring!.outputs.workspaceId : ''
    managementKey: managementKey
  }
}

module app 'function-app.bicep' = {
  name: 'function-app'
  scope: group
  params: {
    name: names.app
    planName: names.plan
    location: location
    tags: allTags
    identityId: identity.outputs.id
    identityClientId: identity.outputs.clientId
    hostBlobServiceUri: hostStorage.outputs.blobServiceUri
    packageContainer: packageContainer
    tableServiceUri: stateStorage.outputs.tableServiceUri
    configuration: string(union(sections, configuration))
    managementKey: useVault ? vault!.outputs.reference : managementKey
    secretSettings: secretSettings
    telemetryConnectionString: telemetry ? monitoring!.outputs.connectionString : ''
    instanceMemoryMB: instanceMemoryMB
    requestBodyLimitBytes: requestBodyLimitBytes
    perInstanceConcurrency: perInstanceConcurrency
    maximumInstanceCount: maximumInstanceCount
    alwaysReadyInstances: alwaysReadyInstances
    zoneRedundant: zoneRedundant
    subnetId: privateNetwork ? network!.outputs.appSubnetId : ''
    publicAccess: !(privateNetwork && privateApp)
    allowedIpRanges: allowedIpRanges
    allowAvailabilityTests: alerting
    updateStrategy: updateStrategy
  }
  dependsOn: [
    hostStorageEndpoint
    stateStorageEndpoint
    stateFilesEndpoint
  ]
}

module appEndpoint 'private-endpoint.bicep' = if (privateNetwork && privateApp) {
  name: 'app-endpoint'
  scope: group
  params: {
    name: 'pe-${names.app}'
    location: location
    tags: allTags
    targetId: app.outputs.id
    group: 'sites'
    subnetId: network!.outputs.endpointsSubnetId
    dnsZoneIds: [network!.outputs.appZoneId]
  }
}

@description('Resource group of the gateway.')
output AZURE_RESOURCE_GROUP string = resourceGroupName

@description('Name of the function app, for `func azure functionapp publish`.')
output AZURE_FUNCTION_APP_NAME string = app.outputs.name

@description('Address of the gateway.')
output GATEWAY_URL string = app.outputs.url

@description('Address of the tables, for the command line.')
output GATEWAY_TABLES string = stateStorage.outputs.tableServiceUri

@description('Command that creates the first key. The operator runs it in a clone of the repository, signed in with `az login`.')
output FIRST_KEY_COMMAND string = 'GATEWAY_STORAGE__tableServiceUri=${stateStorage.outputs.tableServiceUri} .venv/bin/python -m shared.cli keys create first'

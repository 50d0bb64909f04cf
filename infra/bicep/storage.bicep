// A storage account for identities only, without keys. Used twice: for the Functions host, and for the state of the gateway.

import { assignment } from 'types.bicep'

@description('Name of the account.')
@minLength(3)
@maxLength(24)
param name string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Replication of the data.')
@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS'])
param sku string

@description('Blob containers to create.')
param containers string[] = []

@description('Tables to create.')
param tables string[] = []

@description('Roles on the account.')
param assignments assignment[]

@description('Forbid everybody to delete the account until the lock is removed.')
param lock bool = false

@description('Log Analytics workspace that gets a line for everything that is deleted from the tables. Empty: none.')
param workspaceId string = ''

@description('Close the public endpoint, except for `allowedIpRanges`.')
param restrictNetwork bool

@description('Public IPv4 addresses or ranges that may reach a closed account.')
param allowedIpRanges string[]

resource account 'Microsoft.Storage/storageAccounts@2025-01-01' = {
  name: name
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: {
    name: sku
  }
  properties: {
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: restrictNetwork && empty(allowedIpRanges) ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'None'
      defaultAction: restrictNetwork ? 'Deny' : 'Allow'
      ipRules: map(restrictNetwork ? allowedIpRanges : [], cidr => { action: 'Allow', value: cidr })
    }
  }
}

resource blobService 'Microsoft.Storage/storageAccounts/blobServices@2025-01-01' = if (!empty(containers)) {
  parent: account
  name: 'default'
}

resource container 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-01-01' = [
  for entry in containers: {
    parent: blobService
    name: entry
    properties: {
      publicAccess: 'None'
    }
  }
]

resource tableService 'Microsoft.Storage/storageAccounts/tableServices@2025-01-01' = if (!empty(tables)) {
  parent: account
  name: 'default'
}

resource table 'Microsoft.Storage/storageAccounts/tableServices/tables@2025-01-01' = [
  for entry in tables: {
    parent: tableService
    name: entry
  }
]

resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for entry in assignments: {
    name: guid(account.id, entry.principalId, entry.roleId)
    scope: account
    properties: {
      principalId: entry.principalId
      principalType: entry.principalType
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', entry.roleId)
    }
  }
]

resource deleteLock 'Microsoft.Authorization/locks@2020-05-01' = if (lock) {
  name: 'keys-and-usage'
  scope: account
  properties: {
    level: 'CanNotDelete'
    notes: 'Its tables hold the keys and the usage of the gateway. docs/operate.md says how to back them up.'
  }
}

// Writes are not logged: every call of the gateway makes some.
resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(workspaceId)) {
  name: 'tollgate'
  scope: tableService
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'StorageDelete'
        enabled: true
      }
    ]
  }
}

@description('Resource id of the account.')
output id string = account.id

@description('Address of the blob service, without a trailing slash.')
output blobServiceUri string = 'https://${account.name}.blob.${environment().suffixes.storage}'

@description('Address of the table service, without a trailing slash.')
output tableServiceUri string = 'https://${account.name}.table.${environment().suffixes.storage}'

// An Azure OpenAI account with its model deployments, open to identities only, not to keys.

import { assignment, deployment, modelProvider } from 'types.bicep'

@description('Name of the account and first label of its endpoint.')
@minLength(2)
@maxLength(64)
param name string

@description('Azure region of the account.')
param region string

@description('Tags of every resource.')
param tags object

@description('Model deployments.')
param deployments deployment[]

@description('True: a Foundry resource, for models of other makers than OpenAI, too.')
param foundry bool

@description('What Anthropic is told with a deployment of Claude. Only for those.')
param provider modelProvider?

@description('Roles on the account.')
param assignments assignment[]

@description('Subnet for a private endpoint. Empty: the account has a public endpoint.')
param subnetId string

@description('Private DNS zones of the private endpoint: one for each host name that an account has.')
param dnsZoneIds string[]

@description('Azure region of the subnet.')
param subnetLocation string

@description('Restore the deleted account of this name.')
param restore bool

@description('Log Analytics workspace that gets the audit log. Empty: none.')
param workspaceId string

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' = {
  name: name
  location: region
  tags: tags
  kind: foundry ? 'AIServices' : 'OpenAI'
  sku: {
    name: 'S0'
  }
  properties: {
    customSubDomainName: name // sign-in with Entra ID needs it
    disableLocalAuth: true
    restore: restore ? true : null
    publicNetworkAccess: empty(subnetId) ? 'Enabled' : 'Disabled'
    networkAcls: {
      defaultAction: empty(subnetId) ? 'Allow' : 'Deny'
    }
  }
}

// Azure rejects two at a time on one account.
@batchSize(1)
resource models 'Microsoft.CognitiveServices/accounts/deployments@2025-06-01' = [
  for model in filter(deployments, d => d.?format != 'Anthropic'): {
    parent: account
    name: model.name
    sku: {
      name: model.sku
      capacity: model.capacity
    }
    properties: {
      model: {
        format: model.?format ?? 'OpenAI'
        name: model.model
        version: model.?version
      }
      raiPolicyName: model.?raiPolicyName
      spilloverDeploymentName: model.?spilloverDeploymentName
      // A version that was chosen stays until it is retired. Without one nothing here turns an upgrade back.
      versionUpgradeOption: empty(model.?version) ? 'OnceNewDefaultVersionAvailable' : 'OnceCurrentVersionExpired'
    }
  }
]

// Only a preview of the API tells Anthropic what it demands.
@batchSize(1)
#disable-next-line BCP081 // the compiler does not know this version
resource claudes 'Microsoft.CognitiveServices/accounts/deployments@2026-05-15-preview' = [
  for model in filter(deployments, d => d.?format == 'Anthropic'): {
    parent: account
    name: model.name
    sku: {
      name: model.sku
      capacity: model.capacity
    }
    properties: {
      model: {
        format: 'Anthropic'
        name: model.model
        version: model.?version
      }
      #disable-next-line BCP037 // the compiler's types lack it
      modelProviderData: provider
      versionUpgradeOption: empty(model.?version) ? 'OnceNewDefaultVersionAvailable' : 'OnceCurrentVersionExpired'
    }
    dependsOn: [
      models
    ]
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

// After the deployments: the account is busy while one is created (AccountProvisioningStateInvalid).
module endpoint 'private-endpoint.bicep' = if (!empty(subnetId)) {
  name: take('endpoint-${name}', 64)
  params: {
    name: 'pe-${name}'
    location: subnetLocation
    tags: tags
    targetId: account.id
    group: 'account'
    subnetId: subnetId
    dnsZoneIds: dnsZoneIds
  }
  dependsOn: [
    claudes
  ]
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(workspaceId)) {
  name: 'tollgate'
  scope: account
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'Audit'
        enabled: true
      }
    ]
  }
}
